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
