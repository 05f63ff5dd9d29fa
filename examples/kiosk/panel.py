"""The service `panel`: asks `device` every second, listens to what it announces, and shows both."""

from console import Console
from readings import Readings

from daebus import Daebus, DaebusCaller, DaebusError

app = Daebus(__name__)
device = DaebusCaller("device", timeout=2)
console = Console()


@app.background("ask", interval=1)
def ask() -> None:
    try:
        console.show(device.send_request("readings", {}))
    except DaebusError as reason:
        console.show_problem(f"device: no answer ({reason})")


@app.listen("device.readings")
def heard(announced: Readings) -> None:
    console.hear(announced)


@app.on_stop()
def good_bye() -> None:
    device.close()


if __name__ == "__main__":
    app.run(service="panel")
