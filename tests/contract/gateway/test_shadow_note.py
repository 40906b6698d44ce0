"""The gateway says whether the system runs in shadow mode: in /readyz and in the metrics."""

from __future__ import annotations

from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from gateway.app import GATEWAY, create_app
from gateway.endpoints import webhook_endpoints
from gateway.metrics import GatewayMetrics
from gateway.ops_pages import create_ops_app
from gateway.publisher import Publisher
from schemas.kafka_access import KafkaAccess
from sinks.postgres.shadow_watch import ShadowWatch
from tests.kits.gatewaykit import config
from tests.kits.storekit import ask


async def test_F2_the_gateway_says_that_nothing_leaves(
    kafka_bootstrap: str, topic_prefix: str, database: SecretStr
) -> None:
    metrics, shadow = GatewayMetrics(), ShadowWatch(database)
    publisher = Publisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.events", metrics)
    app = create_app(webhook_endpoints(config()), publisher, metrics, shadow=shadow)
    async with TestClient(TestServer(app)), TestClient(TestServer(create_ops_app(app))) as ops:

        async def notes() -> str:
            found = await (await ops.get("/readyz")).json()
            return str(found["notes"]["shadow"])

        assert "unknown" in await notes()
        await shadow.look()
        assert await notes() == "off"
        await ask(database, "INSERT INTO billing.shadow (is_only, began_at) VALUES (true, now())")
        await shadow.look()
        assert "nothing leaves the system" in await notes()
        assert "billing_gateway_shadow 1.0" in await (await ops.get("/metrics")).text()
        await ask(database, "UPDATE billing.shadow SET ended_at = now()")
        await shadow.look()
        assert "billing_gateway_shadow 0.0" in await (await ops.get("/metrics")).text()
    assert app[GATEWAY].notes == {"shadow": "off"}


async def test_F2_a_gateway_without_a_database_does_not_know(kafka_bootstrap: str, topic_prefix: str) -> None:
    metrics = GatewayMetrics()
    app = create_app(
        webhook_endpoints(config()), Publisher(KafkaAccess(kafka_bootstrap), f"{topic_prefix}.events", metrics), metrics
    )
    assert app[GATEWAY].notes == {"shadow": "unknown: no BILLING_DATABASE_URL"}
