# /// script
# [tool.daebus]
# description = "Kiosk: the page of this device"
# calls = ["device"]
# listen = ["device.readings"]
# ///
"""The service `panel`: serves the page that shows how `device` is doing, and shows the same on the terminal."""

import os

from console import Console
from readings import Readings

from daebus import Daebus, DaebusCaller, DaebusError, DaebusHttp, DaebusWebSocket

PORT = int(os.environ.get("KIOSK_PORT", "8080"))

app = Daebus(__name__)
app.attach(DaebusHttp(port=PORT))
app.static("/", "page")

websocket = app.attach(DaebusWebSocket(port="same"))
websocket.gateway(actions=["device/readings"], channels=["device.readings"])  # what the page may ask and hear

device = DaebusCaller("device", timeout=2)
console = Console(page=f"http://127.0.0.1:{PORT}/")


@app.background("ask", interval=1)
def ask() -> None:
    try:
        try:
            console.show(device.send_request("readings"))
        except DaebusError as reason:
            console.show_problem(f"device: no answer ({reason})")
    except BrokenPipeError:  # nobody looks any more, as in `make run | head`
        app.stop()


@app.listen("device.readings")
def heard(announced: Readings) -> None:
    console.hear(announced)


@app.on_stop()
def good_bye() -> None:
    device.close()


if __name__ == "__main__":
    console.show_problem("device: not asked yet")
    app.run(service="panel")
