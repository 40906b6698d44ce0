"""What the tests of asked checks share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from scheduler import asked_checks
from scheduler.asked_checks import AskedChecks
from schemas.settings import Config
from sinks.postgres import owned_job
from sinks.postgres.console_actions import ConsoleActions
from tests.kits.checkskit import Rig
from tests.kits.reconcilekit import open_kit
from tests.kits.stripelist import KEY


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Rig]:
    monkeypatch.setattr(owned_job, "RETRY_S", 0.05)
    monkeypatch.setattr(asked_checks, "STOP_S", 0.05)
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        more = {"stripe_api_key": SecretStr(KEY), "stripe_api_base": desk.stripe.url, "stripe_calls_per_second": 100.0}
        settings = desk.settings.model_copy(update=more)
        yield Rig(desk, AskedChecks(settings, Config(), settle_s=0.0), ConsoleActions(database))
