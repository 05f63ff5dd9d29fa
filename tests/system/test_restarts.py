"""Fifty restarts under load: nothing is refused, nothing fails, nothing is lost, nothing is done twice."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from typing import Any

from tests.support import MS, wait_for
from tests.system.container import Container

RESTARTS = 50
RATE = 200  # requests a second over HTTP, and as many over the bus

# Each request has a number. The handlers write down the numbers they get, in a file that outlives them.
SERVICE = """
import os
from daebus import Daebus, DaebusHttp, request

app = Daebus(__name__)
app.attach(DaebusHttp(port=8080))
done = os.open("/run/gate-done", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

@app.on_start
def settle():
    os.write(done, b"start\\n")

@app.route("/pass/<number>")
def passing(req, number):
    os.write(done, f"{number}\\n".encode())
    return {"number": number}

@app.action("pass")
def pass_one():
    os.write(done, f"{request.payload}\\n".encode())
    return request.payload

app.run(service="gate")
"""

SOCKET = """
[Socket]
ListenStream=127.0.0.1:8080
FileDescriptorName=http
"""

# Asks until its standard input is closed; then prints what it asked for, and what went wrong.
# A kept-alive connection is looked at before it is used again, as HTTP clients do: a server may close an idle one.
LOAD = """
import json, socket, sys, threading, time
from daebus import DaebusCaller

RATE = int(sys.argv[1])
CLIENTS = 40  # of each kind, so many that they go on asking while some wait
stop = threading.Event()
asked, troubles, slowest = [], [], [0.0]

def paced(name, rate, work):
    def run():
        number, due = 0, time.monotonic()
        while not stop.is_set():
            number += 1
            label = f"{name}-{number}"
            asked.append(label)
            began = time.monotonic()
            try:
                work(label)
            except Exception as error:
                troubles.append(f"{label}: {type(error).__name__}: {error}")
            slowest[0] = max(slowest[0], time.monotonic() - began)
            due += 1 / rate  # what was missed is made up for
            stop.wait(max(0.0, due - time.monotonic()))
    threads.append(threading.Thread(target=run))

def dial():
    return socket.create_connection(("127.0.0.1", 8080), 10)

def get(connection, label):
    connection.sendall(f"GET /pass/{label} HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n".encode())
    answer = b""
    while b"\\r\\n\\r\\n" not in answer or not answer.endswith(b"}"):
        data = connection.recv(65536)
        if not data:
            raise ConnectionError(f"closed after {answer!r}")
        answer += data
    head, body = answer.split(b"\\r\\n\\r\\n")
    if not head.startswith(b"HTTP/1.1 200 ") or json.loads(body) != {"number": label}:
        raise ValueError(answer)
    return b"connection: close" not in head.lower()

def new_connection(label):
    with dial() as connection:
        get(connection, label)

class KeptAlive:
    def __init__(self):
        self.connection = None

    def is_closed(self):
        self.connection.setblocking(False)
        try:
            return self.connection.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            return False
        finally:
            self.connection.settimeout(10)

    def __call__(self, label):
        if self.connection is not None and self.is_closed():
            self.connection.close()
            self.connection = None
        if self.connection is None:
            self.connection = dial()
        if not get(self.connection, label):
            self.connection.close()
            self.connection = None

threads = []
caller = DaebusCaller("gate", timeout=15)
for number in range(CLIENTS):
    paced(f"new{number}", RATE / 2 / CLIENTS, new_connection)
    paced(f"kept{number}", RATE / 2 / CLIENTS, KeptAlive())
    paced(f"bus{number}", RATE / CLIENTS, lambda label: caller.send_request("pass", label, wait=True))
begun = time.monotonic()
for thread in threads:
    thread.start()
print("begun", flush=True)
sys.stdin.read()
stop.set()
for thread in threads:
    thread.join()
seconds = time.monotonic() - begun
print(json.dumps({"asked": asked, "troubles": troubles, "slowest": slowest[0], "seconds": seconds}))
"""


def restart_under_load(container: Container, restarts: int) -> dict[str, Any]:
    container.put_service("gate", SERVICE, "[Unit]\nStartLimitIntervalSec=0\n")
    container.put("/etc/systemd/system/gate.socket", textwrap.dedent(SOCKET))
    container.systemctl("daemon-reload")
    container.systemctl("start", "gate.socket", "gate.service")
    with container.popen(["/usr/bin/python3", "-c", LOAD, str(RATE)]) as load:
        assert load.stdin is not None
        assert load.stdout is not None
        assert load.stdout.readline() == "begun\n"
        for _ in range(restarts):
            container.systemctl("restart", "gate.service")
            wait_for_more(container, RATE)
        load.stdin.close()
        report: dict[str, Any] = json.loads(load.stdout.read())
    report["done"] = container.read("/run/gate-done").split()
    return report


def wait_for_more(container: Container, requests: int) -> None:
    """Until the service has handled so many more."""
    file = container.outside("/run/gate-done")
    before = file.stat().st_size
    wait_for(lambda: file.stat().st_size > before + requests * len("new10-100\n"), 20_000 * MS)


def test_restarts_under_load_lose_nothing(container: Container) -> None:
    restarts = RESTARTS
    report = restart_under_load(container, restarts)
    done = Counter(report["done"])
    assert report["troubles"] == []
    assert done.pop("start") == restarts + 1
    assert [number for number, times in done.items() if times > 1] == []
    assert set(report["asked"]) == set(done)
    assert container.show("gate", "Result") == "success"
    assert len(report["asked"]) > report["seconds"] * RATE  # half of what was to be asked, on a machine that is busy
