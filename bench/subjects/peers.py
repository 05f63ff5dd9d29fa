"""What others use for the same job: a D-Bus service (dbus-fast) and a NATS micro service (nats-py).

Both get a dictionary as JSON and give it back, as a Daebus action does, and print "ready" when they are.
Arguments: "dbus" with the bus' address, or "nats" with the server's URL.
"""

# The two libraries are only in the benchmark's own environment.
# mypy: disable-error-code="import-not-found,misc,name-defined,untyped-decorator,unused-ignore"

import asyncio
import json
import sys


async def serve_dbus(address: str) -> None:
    from dbus_fast.aio import MessageBus
    from dbus_fast.service import ServiceInterface, method

    class Echo(ServiceInterface):
        @method()
        def Echo(self, text: "s") -> "s":  # noqa: F821, N802 - D-Bus' own type codes and names
            return json.dumps(json.loads(text))

    bus = await MessageBus(bus_address=address).connect()
    bus.export("/bench", Echo("org.example.Bench"))
    await bus.request_name("org.example.Bench")
    print("ready", flush=True)
    await bus.wait_for_disconnect()


async def serve_nats(url: str) -> None:
    import nats
    import nats.micro

    async def echo(request: nats.micro.Request) -> None:
        await request.respond(json.dumps(json.loads(request.data)).encode())

    connection = await nats.connect(url)
    service = await nats.micro.add_service(connection, name="bench", version="1.0.0")
    await service.add_endpoint(name="echo", handler=echo)
    await connection.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    serve = {"dbus": serve_dbus, "nats": serve_nats}[sys.argv[1]]
    asyncio.run(serve(sys.argv[2]))
