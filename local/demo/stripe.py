"""The Stripe of the demo: it has the events and objects of the story, so that an audit can compare with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from pydantic import SecretStr

from local.demo.people import DemoStep, TimeLeap
from local.stripe.builder import Json
from local.stripe.simulator.books import StripeEvent
from local.stripe.simulator.server import StripeServer
from local.stripe.simulator.stripe import SimulatedStripe
from recovery.audit.audit import AuditAsked, AuditReport
from recovery.audit.differences import AuditDifference, Cause, Kind
from recovery.audit.wiring import auditor
from schemas.settings import Config, Settings

_WINDOW = timedelta(days=40)
_KINDS = ("customer", "invoice", "subscription")


async def audit_story(
    env: Mapping[str, str], config: Config, kept: Path, steps: Sequence[DemoStep | TimeLeap]
) -> tuple[AuditReport, list[str]]:
    """Audit a system, of which `env` has the settings, against the story's Stripe.

    Returns the report, and what is not as the story has it. The events of earlier runs on the same database are kept in
    the file `kept`, and are part of that Stripe. Raises StoreUnavailable, LogUnavailable, ApiTrouble.
    """
    sent = [step for step in steps if isinstance(step, DemoStep) and step.answer == 200 and not step.is_again]
    dead = {step.event["id"] for step in sent if step.outcome == "dead"}
    events = _with_earlier(kept, [step.event for step in sent], dead)
    async with _stripe(events) as server:
        given: dict[str, Any] = {}
        for name in Settings.model_fields:
            if (value := env.get(f"BILLING_{name.upper()}")) is not None:
                given[name] = value
        given |= {
            "config_path": env["BILLING_CONFIG"],
            "stripe_api_key": SecretStr(server.key),
            "stripe_api_base": server.url,
        }
        settings = Settings(**given)
        async with auditor(settings, config) as wired:
            since = datetime.now(UTC) - _WINDOW
            asked = AuditAsked(since=since, scope="demo", grace=timedelta(0), settle_s=0.0, fresh=True)
            (report,) = await wired.run(asked, [""])
    own = {step.event["id"] for step in sent} | {step.event["data"]["object"]["id"] for step in sent}
    return report, _surprises(report, own, dead)


def _surprises(report: AuditReport, own: set[str], dead: set[str]) -> list[str]:
    if report.trouble:
        return [f"the audit stopped: {report.trouble}"]
    found = [one for one in report.differences if one.id in own]
    expected = [AuditDifference(Kind.EVENT, id_, {}, Cause.DEAD) for id_ in sorted(dead)]
    names = [{f"{one.kind} {one.id}: {one.cause}" for one in some} for some in (found, expected)]
    return [f"the audit found {name}" for name in sorted(names[0] - names[1])] + [
        f"the audit did not find {name}" for name in sorted(names[1] - names[0])
    ]


def _with_earlier(path: Path, events: Sequence[Json], dead: set[str]) -> list[Json]:
    """Return all events of the file, to which these are added. `_dead`: Stripe never had that state of the object."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    lines += [orjson.dumps({**event, "_dead": event["id"] in dead}) for event in events]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return [orjson.loads(line) for line in lines]


@asynccontextmanager
async def _stripe(events: Iterable[Json]) -> AsyncIterator[StripeServer]:
    """Yield an API with these events, and with the newest state of each object."""
    stripe = SimulatedStripe(int(datetime.now(UTC).timestamp()))
    for event in sorted(events, key=lambda event: int(event["created"])):
        after = event["data"]["object"]
        stripe.books.events.append(
            StripeEvent(event["id"], event["type"], event["created"], "", orjson.dumps(after), None, None)
        )
        if after["object"] in _KINDS and not event["_dead"]:
            stripe.books.add(after)
    async with StripeServer(stripe) as server:
        yield server
