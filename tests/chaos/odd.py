"""Hostile input for the fuzz run: raw HTTP requests, and signed events with one odd value in them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import orjson

from gateway.signature import sign
from local.stripe.builder import Json
from local.stripe.events import EXAMPLES, example

_TYPES = sorted(EXAMPLES)

ODD_VALUES: tuple[Callable[[random.Random], Any], ...] = (
    lambda _: "\x00",
    lambda _: "cus_\x00x",
    lambda _: "\x1b]0;title\x07\x9b31m",
    lambda _: "\u202e\u200b\U000e0041",
    lambda r: "x" * r.choice([255, 256, 300, 9_000, 60_000]),
    lambda r: "".join(r.choices("0123456789abcdef", k=9_000)),
    lambda r: r.choice([2**31, 2**53, 2**63 - 1, -1, -(2**63), 0]),
    lambda r: r.choice([0.1, 1e308, -1e308, 1e-308]),
    lambda _: None,
    lambda _: [],
    lambda _: {},
    lambda r: r.choice([True, False]),
    lambda _: {"id": {"id": {"id": "cus_1"}}},
    lambda _: [[[[[["deep"]]]]]],
    lambda _: "' OR 1=1; DROP TABLE billing.events; --",
    lambda _: "{{7*7}}${7*7}<script>alert(1)</script>",
    lambda _: "a@b.example\r\nBcc: c@d.example",
    lambda _: "=cmd|' /C calc'!A0",
    lambda _: "9999-99-99T99:99:99Z",
    lambda r: r.choice(["", "  ", "-1", "1e5", "\u0661\u0662\u0663", str(10**30), "usd", "xxx", "2026-01-01"]),
    lambda r: r.choice([2**64 - 1, 10**15, 253_402_300_800, -62_135_596_801, 4_102_444_801, 1.5]),
    lambda r: r.choice([[None], [[]], [{}], {"data": None}, {"data": [None]}, {"data": {}}, {"object": "list"}]),
    lambda r: r.choice([{"id": None}, {"id": 5}, {"id": ""}, {"id": "cus_1", "deleted": True}, {"": 1}]),
    lambda _: "cus_1/../../x?y=%0d%0a",
    lambda r: chr(r.randrange(1, 0xD7FF)) * r.randrange(1, 40),
)
"""What replaces a field. Lone surrogates and NaN are not JSON for orjson, and are written as text by `bodies`."""


def odd_event(chance: random.Random, number: int) -> tuple[str, bytes]:
    """Returns id and body of an example event with one to three odd values anywhere but in its id."""
    event = example(chance.choice(_TYPES), int(time.time()) - chance.randrange(86_400))
    event_id = event["id"] = f"evt_fuzz{number}"
    for _ in range(chance.randrange(1, 4)):
        parent, key = chance.choice([place for place in _places(event) if place[1] != "id" or place[0] is not event])
        parent[key] = chance.choice(ODD_VALUES)(chance)
    body = orjson.dumps(event)
    if chance.random() < 0.05:
        lone = chance.choice([b'"\\ud800"', b"NaN", b"1e400", b'"\\u0000"', b"123456789012345678901234567890"])
        body = body.replace(b"null", lone, 1)
    return event_id, body


def _places(value: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((value, key))
        found += _places(inner)
    return found


def good_event(number: int) -> tuple[str, bytes]:
    """Returns id and body of an ordinary event of a customer of its own."""
    event: Json = example("customer.updated", int(time.time()))
    event["id"] = f"evt_good{number}"
    event["data"]["object"]["id"] = f"cus_good{number}"
    return str(event["id"]), orjson.dumps(event)


def posted(body: bytes, signature: str | None, *, path: str = "/webhooks/stripe", extra: bytes = b"") -> bytes:
    """Returns a complete POST on a connection that stays open."""
    head = f"POST {path} HTTP/1.1\r\nHost: gateway\r\nContent-Length: {len(body)}\r\n".encode() + extra
    if signature is not None:
        head += b"Stripe-Signature: " + signature.encode("utf-8", "replace") + b"\r\n"
    return head + b"\r\n" + body


def signed(body: bytes, secret: bytes) -> bytes:
    return posted(body, sign(body, [secret], timestamp=int(time.time())))


def hostile_request(chance: random.Random) -> bytes:
    """Returns one request that must not be answered with 200 or 5xx."""
    return chance.choice(_HOSTILE)(chance)


def _random_body(chance: random.Random) -> bytes:
    return chance.choice(
        [
            b"",
            b"{}",
            b"null",
            b'{"id": "evt_1"}',
            chance.randbytes(chance.randrange(1, 2_000)),
            b"[" * chance.randrange(1, 5_000),
            b'{"a":' * 500 + b"1" + b"}" * 500,
        ]
    )


def _forged(chance: random.Random) -> bytes:
    return posted(_random_body(chance), f"t={int(time.time())},v1={chance.randbytes(32).hex()}")


def _malformed_signature(chance: random.Random) -> bytes:
    now = int(time.time())
    text = chance.choice(
        [
            "",
            "t=,v1=",
            f"t={now}",
            f"v1={'0' * 64}",
            f"t={now},t={now},v1={'0' * 64}",
            f"t=+{now},v1={'0' * 64}",
            f"t={now}," + ",".join(f"v1={'a' * 64}" for _ in range(chance.randrange(1, 60))),
            "".join(chr(chance.randrange(33, 126)) for _ in range(chance.randrange(1, 300))),
        ]
    )
    return posted(_random_body(chance), text)


def _outside_tolerance(chance: random.Random) -> bytes:
    return posted(_random_body(chance), f"t={int(time.time()) + chance.choice([-9_000, 9_000])},v1={'0' * 64}")


def _raw(chance: random.Random) -> bytes:
    line = chance.choice(
        [
            b"GET /webhooks/stripe HTTP/1.1\r\nHost: x\r\n\r\n",
            b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            b"DELETE /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"POST /webhooks/stripe/../../etc HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /exports/%00?expires=1&signature=x HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /unsubscribe?token=%ff HTTP/1.1\r\nHost: x\r\n\r\n",
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
            b"POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            b"POST /webhooks/stripe HTTP/9.9\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"X" * chance.randrange(1, 40_000) + b"\r\n\r\n",
        ]
    )
    if chance.random() < 0.3:
        at = chance.randrange(len(line))
        line = line[:at] + chance.randbytes(1) + line[at + 1 :]
    return line


def _many_headers(chance: random.Random) -> bytes:
    extra = b"".join(b"X-%d: %s\r\n" % (n, b"v" * chance.randrange(200)) for n in range(chance.randrange(1, 130)))
    return posted(b"{}", None, extra=extra)


def _other_path(chance: random.Random) -> bytes:
    name = "".join(chance.choices("abc.-_%/", k=chance.randrange(1, 80)))
    return posted(b"{}", None, path=f"/webhooks/stripe/{name}")


_HOSTILE = (_forged, _malformed_signature, _outside_tolerance, _raw, _many_headers, _other_path)
