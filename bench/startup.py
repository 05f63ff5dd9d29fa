"""How long the command takes from its start to its end, beside a Python that does nothing: `python -m bench.startup`.

Both run in turn, round by round, so that what else the machine does hits both alike; the medians are compared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from daebus.redisserver import PrivateServer, find_servers

ROOT = Path(__file__).parent.parent
SERVICES = ("lamp", "panel", "sensor")
GOAL_MS = 150
"""What `daebus ls` may take on a quiet machine."""

SERVICE = """
import sys
from daebus import Daebus
app = Daebus("app")

@app.action("dim")
def dim():
    "Dim the lamp."

app.run(service=sys.argv[1])
"""

ROWS = {
    "python -c pass": ["-c", "pass"],
    "daebus version": ["-m", "daebus", "version"],
    "daebus ls": ["-m", "daebus", "ls"],
    "daebus info lamp": ["-m", "daebus", "info", "lamp"],
}


def main() -> int:
    options = parse_options()
    with tempfile.TemporaryDirectory(prefix="daebus-bench-") as folder, PrivateServer(find_servers()[0]) as server:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        env = {**kept, "PYTHONPATH": str(ROOT), "PYTHONPYCACHEPREFIX": folder, "DAEBUS_REDIS_URL": server.url}
        services = [
            subprocess.Popen([sys.executable, "-c", SERVICE, name], env=env, stderr=subprocess.PIPE, text=True)
            for name in SERVICES
        ]
        try:
            for service in services:
                until_ready(service)
            report(measure(options.rounds, env))
        finally:
            for service in services:
                service.terminate()
                service.communicate()
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="how often each is run (15)")
    return parser.parse_args()


def until_ready(service: subprocess.Popen[str]) -> None:
    assert service.stderr is not None
    if not any("is ready" in line for line in service.stderr):
        raise SystemExit("a service did not start")


def measure(rounds: int, env: dict[str, str]) -> dict[str, list[float]]:
    """Milliseconds of each row by round; one round before them leaves everything compiled and in memory."""
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for number in range(rounds + 1):
        for name, words in ROWS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], env=env, stdout=subprocess.DEVNULL, check=True)
            if number:
                times[name].append((time.perf_counter() - began) * 1000)
    return times


def report(times: dict[str, list[float]]) -> None:
    base = statistics.median(times["python -c pass"])
    print(f"{'':18}{'median':>10}{'least':>10}{'ratio':>8}")
    for name, values in times.items():
        median = statistics.median(values)
        goal = f"   goal {GOAL_MS} ms" if name == "daebus ls" else ""
        print(f"{name:18}{median:7.1f} ms{min(values):7.1f} ms{median / base:8.1f}{goal}")


if __name__ == "__main__":
    raise SystemExit(main())
