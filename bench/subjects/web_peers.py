"""What others use for the same doors: each takes a JSON body and gives it back, and gives a small JSON document.

A WebSocket peer gives each text message back as it is. One process, no access log, each library's own defaults, but
for gunicorn's threads: as many as waitress has.
Arguments: which one, and the port on loopback.
"""

# The libraries are only in the benchmark's own environment.
# mypy: disable-error-code="import-not-found,import-untyped,misc,no-any-return,type-arg,untyped-decorator,unused-ignore"

import asyncio
import sys
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
WAITRESS_THREADS = 4
READING = {
    "device": "kitchen-lamp",
    "reading": 21.5,
    "unit": "celsius",
    "tag": "0000000001",
    "text": "a line of text to pass on",
}


def flask_application() -> Any:
    from flask import Flask, request

    application = Flask("bench")

    @application.post("/echo")
    def echo() -> Any:
        return request.get_json()

    @application.get("/reading")
    def reading() -> Any:
        return READING

    return application


def serve_waitress(port: int) -> None:
    import waitress

    waitress.serve(flask_application(), host=HOST, port=port, threads=WAITRESS_THREADS)


def serve_gunicorn(port: int) -> None:
    from gunicorn.app.base import BaseApplication

    class Server(BaseApplication):
        def load_config(self) -> None:
            options = {
                "bind": f"{HOST}:{port}",
                "worker_class": "gthread",
                "threads": WAITRESS_THREADS,
                "loglevel": "warning",
            }
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return flask_application()

    Server().run()


def serve_uvicorn(port: int) -> None:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket, WebSocketDisconnect

    async def echo(request: Request) -> JSONResponse:
        return JSONResponse(await request.json())

    async def reading(_request: Request) -> JSONResponse:
        return JSONResponse(READING)

    async def echo_messages(socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_text(await socket.receive_text())
        except WebSocketDisconnect:
            pass

    routes = [Route("/echo", echo, methods=["POST"]), Route("/reading", reading), WebSocketRoute("/", echo_messages)]
    uvicorn.run(Starlette(routes=routes), host=HOST, port=port, log_level="warning", access_log=False)


def serve_aiohttp(port: int) -> None:
    from aiohttp import web

    async def echo(request: web.Request) -> web.Response:
        return web.json_response(await request.json())

    async def reading(_request: web.Request) -> web.Response:
        return web.json_response(READING)

    application = web.Application()
    application.router.add_post("/echo", echo)
    application.router.add_get("/reading", reading)
    web.run_app(application, host=HOST, port=port, access_log=None, print=None)


def serve_websockets_tasks(port: int) -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def run() -> None:
        async with serve(echo, HOST, port) as server:
            await server.serve_forever()

    asyncio.run(run())


def serve_websockets_threads(port: int) -> None:
    from websockets.sync.server import ServerConnection, serve

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with serve(echo, HOST, port) as server:
        server.serve_forever()


SERVE: dict[str, Callable[[int], None]] = {
    "waitress": serve_waitress,
    "gunicorn": serve_gunicorn,
    "uvicorn": serve_uvicorn,
    "aiohttp": serve_aiohttp,
    "websockets-tasks": serve_websockets_tasks,
    "websockets-threads": serve_websockets_threads,
}

if __name__ == "__main__":
    SERVE[sys.argv[1]](int(sys.argv[2]))
