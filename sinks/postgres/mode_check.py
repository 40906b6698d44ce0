"""Refuses to start on a database of Stripe's other mode: state rows do not record the mode that wrote them."""

from __future__ import annotations

from pydantic import SecretStr

from schemas.settings import InvalidSettings, Mode
from sinks.postgres.failures import classified
from sinks.postgres.pool import Session, SessionTimeouts, connect

_RECORDED = "SELECT livemode FROM billing.system_mode"
_RECORD = """
INSERT INTO billing.system_mode (is_only, livemode) VALUES (true, $1)
ON CONFLICT (is_only) DO UPDATE SET livemode = excluded.livemode
"""
_HAS_EVENTS = (
    "SELECT EXISTS (SELECT FROM billing.events WHERE livemode = $1 AND outcome IN ('applied', 'stale', 'waiting'))"
)
"""Events that were refused or had no rule changed no state, so those of the other mode do no harm."""

_LEDGER_READ_S = 1800.0
"""The ledger is read once in the life of a database, 100 million rows in about two minutes."""


async def check_mode(url: SecretStr, mode: Mode) -> None:
    """Records the mode of a database at the first start, and compares it at each later start.

    Call it after the schema check. Raises InvalidSettings with one line if events of the other mode were applied, and
    StoreUnavailable.
    """
    session = await connect(url, application="billing-start", bounds=SessionTimeouts(statement_s=_LEDGER_READ_S))
    try:
        with classified():
            recorded = await session.fetchval(_RECORDED)
            if recorded is mode.livemode:
                return
            await _refuse_other(session, mode)
            await session.execute(_RECORD, mode.livemode)
    finally:
        session.terminate()


async def _refuse_other(session: Session, mode: Mode) -> None:
    other = Mode.TEST if mode is Mode.LIVE else Mode.LIVE
    if await session.fetchval(_HAS_EVENTS, other.livemode):
        raise InvalidSettings(
            f"BILLING_DATABASE_URL: the database has events of {other} mode, and `mode` in BILLING_CONFIG is {mode}: "
            f"use a database of {mode} mode, or rebuild one from the events of this mode (docs/operations.md, "
            "One system, one mode)"
        )
