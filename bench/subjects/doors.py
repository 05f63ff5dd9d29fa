"""The measured service with doors for a browser: one script for this Daebus and for upstream.

Arguments: the service's name, its doors (none, http or sockets, which is both), the port of HTTP, that of WebSocket,
and for a server on TCP Redis' port; else the environment says where Redis is. Everything is on loopback.
"""

import importlib
import sys
from typing import Any

from daebus import Daebus, request, response

READING = {
    "device": "kitchen-lamp",
    "reading": 21.5,
    "unit": "celsius",
    "tag": "0000000001",
    "text": "a line of text to pass on",
}

name, doors, http_port, socket_port, *redis_port = sys.argv[1:]
is_ours = not redis_port
app = Daebus(name)


@app.action("echo")
def echo() -> object:
    return response.success(request.payload)


def open_http() -> None:
    from daebus import DaebusHttp

    app.attach(DaebusHttp(port=int(http_port), host="127.0.0.1"))

    @app.route("/echo", methods=["POST"])
    def echo_body(req: Any) -> object:
        return req.payload

    @app.route("/reading")
    def reading(_req: Any) -> object:
        return READING


def open_sockets() -> None:
    from daebus import DaebusWebSocket

    if not is_ours:
        keep_upstream_on_loopback()
    app.attach(DaebusWebSocket(port="same" if is_ours else int(socket_port)))

    @app.socket("echo")
    def echo_message(data: object, _client_id: str) -> object:
        return data


def keep_upstream_on_loopback() -> None:
    """It always binds 0.0.0.0, and a measurement has no business on other interfaces."""
    library: Any = importlib.import_module("websockets")
    serve = library.serve
    library.serve = lambda handler, _host, port: serve(handler, "127.0.0.1", port)


if __name__ == "__main__":
    if doors != "none":
        open_http()
    if doors == "sockets":
        open_sockets()
    if is_ours:
        app.run(service=name)
    else:
        app.run(service=name, redis_host="127.0.0.1", redis_port=int(redis_port[0]))
