"""Two designs with nothing around them, over hiredis and json: no request object, no logging, no error path.

`pool` is upstream's design without upstream's own costs: a reader thread and ten workers. `inline` is the
least that Python can do: one thread handles what one read brings and answers it in one write; nothing there
may be slow.
Arguments: which of the two, the path of Redis' socket and the service's name.
"""

import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hiredis

SLOW_SECONDS = 0.020
LOOPS_BETWEEN_LOOKS = 200

Message = tuple[bytes, bytes]
# Its type information allows one word only.
pack: Callable[[tuple[str, ...]], bytes] = hiredis.pack_command  # type: ignore[assignment]
encode = json.JSONEncoder(separators=(",", ":")).encode


def connect(path: str, *command: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    connection.sendall(pack(command))
    return connection


def reads(connection: socket.socket) -> Iterator[list[Message]]:
    """What each read brings: the channels and messages."""
    reader = hiredis.Reader()
    while data := connection.recv(65536):
        reader.feed(data)
        messages = []
        while (push := reader.gets()) is not False:
            if push[0] == b"message":
                messages.append((push[1], push[2]))
        yield messages


def act(action: str, payload: object) -> object:
    if action == "nap":
        time.sleep(SLOW_SECONDS)
    elif action == "burn":
        until = time.thread_time() + SLOW_SECONDS
        while time.thread_time() < until:
            for number in range(LOOPS_BETWEEN_LOOKS):
                number * number
    return payload


def reply_to(asked: dict[str, Any], result: object) -> bytes:
    reply = {"status": "success", "payload": result, "request_id": asked["request_id"], "final": True}
    return pack(("PUBLISH", asked["reply_to"], encode(reply)))


def pool(path: str, service: str) -> None:
    publisher = connect(path, "CLIENT", "REPLY", "OFF")
    one_at_a_time = threading.Lock()

    def handle(message: bytes) -> None:
        asked = json.loads(message)
        reply = reply_to(asked, act(asked["action"], asked["payload"]))
        with one_at_a_time:
            publisher.sendall(reply)

    with ThreadPoolExecutor(10) as workers:
        for messages in reads(connect(path, "SUBSCRIBE", service)):
            for _channel, message in messages:
                workers.submit(handle, message)


def inline(path: str, service: str) -> None:
    publisher = connect(path, "CLIENT", "REPLY", "OFF")
    arrivals: list[float] = []
    for messages in reads(connect(path, "SUBSCRIBE", "bench.broadcast", service)):
        replies = []
        for channel, message in messages:
            content = json.loads(message)
            if channel == b"bench.broadcast":
                arrivals.append(time.monotonic())
            elif content["action"] == "count":
                replies.append(reply_to(content, {"count": len(arrivals), "last": arrivals[-1] if arrivals else 0.0}))
            else:
                replies.append(reply_to(content, content["payload"]))
        if replies:
            publisher.sendall(b"".join(replies))


if __name__ == "__main__":
    serve = {"pool": pool, "inline": inline}[sys.argv[1]]
    serve(sys.argv[2], sys.argv[3])
