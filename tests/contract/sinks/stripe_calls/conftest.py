"""A Stripe on loopback, and the outbox of calls with a clock that tests move."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

from tests.kits.stripekit import CallOutboxKit, FakeStripeServer, make_topic, open_desk


@pytest.fixture
async def stripe() -> AsyncIterator[FakeStripeServer]:
    async with FakeStripeServer() as server:
        yield server


@pytest.fixture
async def desk(database: SecretStr, stripe: FakeStripeServer) -> AsyncIterator[CallOutboxKit]:
    """For tests that do not read the log: Kafka's address is a port without a server."""
    async with open_desk(database, stripe, "127.0.0.1:1", "none") as opened:
        yield opened


@pytest.fixture
async def topic(kafka_bootstrap: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}.events"
    await asyncio.to_thread(make_topic, kafka_bootstrap, name)
    return name


@pytest.fixture
async def logged_desk(
    database: SecretStr, stripe: FakeStripeServer, kafka_bootstrap: str, topic: str
) -> AsyncIterator[CallOutboxKit]:
    async with open_desk(database, stripe, kafka_bootstrap, topic) as opened:
        yield opened
