"""A rival: the handler that a team writes by hand, with one Postgres transaction for each event.

It verifies the signature, stores the event's id and payload, updates the object's row if the event is not older, adds
the row of a mail, commits, and answers 200. A repeated event changes nothing. aiohttp, uvloop and asyncpg, as in our
gateway and store.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from typing import Any

import asyncpg
import orjson
import uvloop
from aiohttp import web

from gateway.app import SIGNATURE_HEADER
from gateway.signature import SignatureVerdict, verify

CONNECTIONS = 16
TABLES = """
CREATE SCHEMA by_hand;
CREATE TABLE by_hand.events (
    event_id text PRIMARY KEY, type text NOT NULL, received_at timestamptz NOT NULL DEFAULT now(),
    payload jsonb NOT NULL
);
CREATE TABLE by_hand.objects (
    object_id text PRIMARY KEY, customer_id text, status text, amount bigint, created bigint NOT NULL,
    data jsonb NOT NULL
);
CREATE INDEX ON by_hand.objects (customer_id);
CREATE TABLE by_hand.emails (
    email_id bigserial PRIMARY KEY, event_id text NOT NULL, customer_id text NOT NULL, template text NOT NULL,
    status text NOT NULL DEFAULT 'queued', queued_at timestamptz NOT NULL DEFAULT now(), data jsonb NOT NULL
);
CREATE INDEX ON by_hand.emails (queued_at) WHERE status = 'queued';
"""
_EVENT = "INSERT INTO by_hand.events (event_id, type, payload) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING 1"
_OBJECT = """
INSERT INTO by_hand.objects AS o (object_id, customer_id, status, amount, created, data)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (object_id) DO UPDATE SET customer_id = excluded.customer_id, status = excluded.status,
    amount = excluded.amount, created = excluded.created, data = excluded.data WHERE o.created <= excluded.created
"""
_MAIL = "INSERT INTO by_hand.emails (event_id, customer_id, template, data) VALUES ($1, $2, $3, $4)"
MAILS = {
    "customer.subscription.created": "subscription-welcome",
    "invoice.paid": "payment-receipt",
    "invoice.payment_failed": "payment-failed",
}
"""The mail of each event type that has one."""
_STATE = ("customer.created", "customer.updated", "customer.subscription.", "invoice.")


async def apply(connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record], body: bytes) -> None:
    """Store one event and what follows from it, in one transaction."""
    event: dict[str, Any] = orjson.loads(body)
    async with connection.transaction():
        if await connection.fetchval(_EVENT, event["id"], event["type"], body.decode()) is None:
            return  # it was applied before
        if not event["type"].startswith(_STATE):
            return
        obj = event["data"]["object"]
        customer_id = obj["id"] if obj["object"] == "customer" else obj.get("customer")
        fields = orjson.dumps({name: obj.get(name) for name in ("email", "plan", "number", "cancel_at")}).decode()
        amount = obj.get("amount_due")
        await connection.execute(_OBJECT, obj["id"], customer_id, obj.get("status"), amount, event["created"], fields)
        if (template := MAILS.get(event["type"])) is not None:
            await connection.execute(_MAIL, event["id"], customer_id, template, fields)


async def main(port: int, secret: str, url: str) -> None:
    """Serve until SIGTERM."""
    pool = await asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS)

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        header = request.headers.get(SIGNATURE_HEADER)
        if verify(body, header, [secret.encode()], now=time.time()) is not SignatureVerdict.VALID:
            return web.Response(status=400)
        async with pool.acquire() as connection:
            await apply(connection, body)
        return web.Response(body=b'{"received":true}', content_type="application/json")

    app = web.Application()
    app.add_routes([web.post("/webhooks/stripe", receive)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await runner.cleanup()
    await pool.close()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
