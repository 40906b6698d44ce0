"""A limit of the gateway: an aiohttp server that only reads the body, verifies its signature and answers 200."""

from __future__ import annotations

import asyncio
import socket
import sys
import time

import orjson
import uvloop
from aiohttp import web

from gateway.app import SIGNATURE_HEADER
from gateway.signature import SignatureVerdict, verify


async def main(port: int, secret: str) -> None:
    """Serve until the process is stopped."""

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get(SIGNATURE_HEADER)
        if verify(body, header, [secret.encode()], now=time.time()) is not SignatureVerdict.VALID:
            return web.Response(status=400)
        return web.Response(body=orjson.dumps({"received": True}), content_type="application/json")

    app = web.Application()
    app.add_routes([web.post("/webhooks/stripe", receive)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    await web.SockSite(runner, sock).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
