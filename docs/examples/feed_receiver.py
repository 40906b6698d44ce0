"""Receives notifications of changes, verifies them, drops repeats, and keeps the newest state of each customer.

    pip install aiohttp standardwebhooks
    FEED_SECRET=whsec_… python feed_receiver.py 8099

State is in SQLite, in one transaction with the id of the notification: a notification that is repeated after a crash
changes nothing. Needs nothing else from this project.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from typing import Any

from aiohttp import web
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

TABLES = """
CREATE TABLE IF NOT EXISTS seen (message_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS access (
    customer_id TEXT PRIMARY KEY, user_id TEXT, has_access INTEGER, plan TEXT, version INTEGER
);
"""
# A notification that is older than the stored state is a late retry.
STORE = """
INSERT INTO access (customer_id, user_id, has_access, plan, version) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (customer_id) DO UPDATE SET user_id = excluded.user_id, has_access = excluded.has_access,
    plan = excluded.plan, version = excluded.version
WHERE excluded.version > access.version
"""


def apply(database: sqlite3.Connection, message_id: str, message: dict[str, Any]) -> str:
    """Stores the notification and returns `new` or `repeat`."""
    data = message["data"]
    with database:  # one transaction
        new = database.execute("INSERT INTO seen VALUES (?) ON CONFLICT DO NOTHING", (message_id,)).rowcount
        if new and message["type"] == "access.changed":
            row = (data["customer_id"], data["user_id"], data["has_access"], data["plan"], data["version"])
            database.execute(STORE, row)
    return "new" if new else "repeat"


async def receive(request: web.Request) -> web.Response:
    body = await request.read()
    try:
        request.app["webhook"].verify(body, dict(request.headers), json_parse=False)
    except WebhookVerificationError:
        return web.Response(status=401)
    message = json.loads(body)
    outcome = apply(request.app["database"], request.headers["webhook-id"], message)
    print(outcome, message["type"], message["data"]["customer_id"], message["data"]["version"], flush=True)
    return web.Response(status=204)


def main() -> None:
    app = web.Application()
    app["webhook"] = Webhook(os.environ["FEED_SECRET"])
    app["database"] = sqlite3.connect(os.environ.get("FEED_DATABASE", "feed.sqlite"))
    app["database"].executescript(TABLES)
    app.router.add_post("/hook", receive)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)


if __name__ == "__main__":
    main()
