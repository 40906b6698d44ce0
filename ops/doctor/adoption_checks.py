"""Checks of a system that takes over from another one: import and shadow mode (docs/going-live.md)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ops.doctor.findings import CheckResult, Situation, failed, ok, skipped, warning
from sinks.postgres import shadow
from sinks.postgres.failures import classified
from sinks.postgres.imports import ImportRows
from sinks.postgres.pool import Session, connect
from sinks.stripe_api.api import Request, StripeApi
from sinks.stripe_api.key import parse_base, parse_key

_IS_MIGRATED = "SELECT to_regclass('billing.shadow') IS NOT NULL AND to_regclass('billing.imports') IS NOT NULL"
_BEGAN = "SELECT min(created_at) FROM billing.database_identity"


async def check_adoption(situation: Situation) -> Sequence[CheckResult]:
    session = await connect(situation.settings.database_url, application="billing-doctor")
    try:
        with classified():
            if not await session.fetchval(_IS_MIGRATED):
                return [skipped("import and shadow mode: the tables are not at this version's revision")]
            began = await session.fetchval(_BEGAN)
        return [await _shadow(session), *await _import(session, situation, began)]
    finally:
        session.terminate()


async def _shadow(session: Session) -> CheckResult:
    found = await shadow.state(session)
    if found is None or not found.is_on:
        return ok("shadow mode is off")
    remedy = "compare with `billing shadow report`, then switch with `billing shadow end`"
    return warning(f"shadow mode is on since {found.began_at:%Y-%m-%d %H:%M} UTC: nothing leaves the system", remedy)


async def _import(session: Session, situation: Situation, began: datetime | None) -> list[CheckResult]:
    row = await ImportRows(session).find("")
    if row is not None and row.ended_at is None:
        remedy = "run `billing import` again: it continues within a day"
        return [failed(f"the import of {row.started_at:%Y-%m-%d %H:%M} UTC did not end; it is at {row.part}", remedy)]
    if row is None:
        if not await _has_earlier_customers(situation, began):
            return [ok("there is nothing to import")]
        remedy = "run `billing import` once events arrive: docs/going-live.md"
        found = [warning("customers from before this system are at Stripe, and nothing was imported", remedy)]
    else:
        found = [ok(f"imported {row.ended_at:%Y-%m-%d %H:%M} UTC, invoices since {row.since:%Y-%m-%d}")]
    if situation.config.mail.not_before is None:
        remedy = "set mail.not_before to the time of the import"
        found.append(warning("an event from before this system may still be mailed about", remedy))
    return found


async def _has_earlier_customers(situation: Situation, began: datetime | None) -> bool:
    settings = situation.settings
    if settings.stripe_api_key is None or began is None:
        return False
    key = parse_key(settings.stripe_api_key, mode=situation.config.mode)
    api = StripeApi(key, parse_base(settings.stripe_api_base), total_s=10.0)
    try:
        created = {"lt": int(began.timestamp())}
        answer = await api.call(Request("GET", "/v1/customers", "", params={"limit": 1, "created": created}))
    finally:
        await api.close()
    return bool(answer.body.get("data"))
