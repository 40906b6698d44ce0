"""A database belongs to one mode: it is recorded at the first start, and the other mode is refused in one line."""

from __future__ import annotations

import asyncpg
import pytest
from pydantic import SecretStr

from schemas.settings import InvalidSettings, Mode
from sinks.postgres.mode_check import check_mode

_EVENT = """
INSERT INTO billing.events (event_id, type, stream, livemode, outcome)
VALUES ('evt_' || $1::boolean::text, 'invoice.paid', 'invoices', $1, $2)
"""


async def _add(url: str, outcome: str, *, livemode: bool) -> None:
    session = await asyncpg.connect(url)
    try:
        await session.execute(_EVENT, livemode, outcome)
    finally:
        await session.close()


async def test_the_first_start_decides_and_the_other_mode_is_refused(migrated_url: str) -> None:
    url = SecretStr(migrated_url)
    await check_mode(url, Mode.TEST)
    await check_mode(url, Mode.LIVE)  # no event has been applied yet, so the mode may still change
    await _add(migrated_url, "applied", livemode=True)
    await check_mode(url, Mode.LIVE)
    with pytest.raises(InvalidSettings, match="has events of live mode") as caught:
        await check_mode(url, Mode.TEST)
    assert "\n" not in str(caught.value)
    assert "docs/operations.md" in str(caught.value)


async def test_an_old_ledger_with_both_modes_serves_none(migrated_url: str) -> None:
    for livemode in (False, True):
        await _add(migrated_url, "applied", livemode=livemode)
    for mode in Mode:
        with pytest.raises(InvalidSettings, match="has events of"):
            await check_mode(SecretStr(migrated_url), mode)


@pytest.mark.parametrize("outcome", ["dead", "ignored"])
async def test_refused_events_of_the_other_mode_do_no_harm(migrated_url: str, outcome: str) -> None:
    await _add(migrated_url, outcome, livemode=True)
    await check_mode(SecretStr(migrated_url), Mode.TEST)
