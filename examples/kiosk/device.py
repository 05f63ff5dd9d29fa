# /// script
# [tool.daebus]
# description = "Kiosk: how this device is doing"
# network = "none"
# ///
"""The service `device`: tells how the machine is doing, to whoever asks and to whoever listens."""

from readings import Readings, read_device

from daebus import Daebus, broadcast

app = Daebus(__name__)


@app.action("readings")
def readings() -> Readings:
    return read_device()


@app.background("announce", interval=2)
def announce() -> None:
    broadcast.send("device.readings", read_device())


if __name__ == "__main__":
    app.run(service="device")
