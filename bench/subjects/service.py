"""The measured service: one script for this Daebus and for upstream, each under its own interpreter.

Arguments: the service's name and, for a server on TCP, its port; else the environment says where Redis is.
"""

import sys
import time

from daebus import Daebus, request, response

SLOW_SECONDS = 0.020
LOOPS_BETWEEN_LOOKS = 200

app = Daebus("bench")
arrivals: list[float] = []


@app.action("echo")
def echo() -> object:
    return response.success(request.payload)


@app.action("nap")
def nap() -> object:
    time.sleep(SLOW_SECONDS)
    return response.success({"slept": SLOW_SECONDS})


@app.action("burn")
def burn() -> object:
    """Plain Python for 20 ms of this thread's CPU time; waiting for the interpreter's lock is not in it."""
    until = time.thread_time() + SLOW_SECONDS
    while time.thread_time() < until:
        for number in range(LOOPS_BETWEEN_LOOKS):
            number * number
    return response.success({"burned": SLOW_SECONDS})


@app.listen("bench.broadcast")
def arrived(payload: object) -> None:
    arrivals.append(time.monotonic())


@app.action("count")
def count() -> object:
    return response.success({"count": len(arrivals), "last": arrivals[-1] if arrivals else 0.0})


if __name__ == "__main__":
    if len(sys.argv) > 2:
        app.run(service=sys.argv[1], redis_host="127.0.0.1", redis_port=int(sys.argv[2]))
    else:
        app.run(service=sys.argv[1])
