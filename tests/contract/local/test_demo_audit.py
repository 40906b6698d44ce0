"""The demo ends with the line of an audit: the books agree with a Stripe that has the story's objects (D11)."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import SecretStr

from local.demo.people import DemoStep, TimeLeap
from local.demo.story import story
from local.demo.stripe import audit_story
from recovery.audit.differences import Cause, Kind
from schemas.record import Source
from schemas.settings import Config, Plan
from tests.field.harness import record
from tests.kits.auditkit import processed
from tests.kits.reconcilekit import open_kit
from tests.kits.storekit import ask

CONFIG = Config(
    plans={
        "starter": Plan(name="Starter", prices=("price_starter_monthly",)),
        "pro": Plan(name="Pro", prices=("price_pro_monthly",)),
    }
)


async def test_D11_the_demo_ends_with_an_audit(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> None:
    """Only the event that died differs. A row that was changed is found, also in a second run of the story."""
    (tmp_path / "config.toml").write_text("")
    env = {
        "BILLING_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "BILLING_DATABASE_URL": database.get_secret_value(),
        "BILLING_TOPIC_PREFIX": topic_prefix,
        "BILLING_CONFIG": str(tmp_path / "config.toml"),
    }
    kept = tmp_path / "story.jsonl"
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        for run in (1, 2):
            steps = story(int(time.time()) - 1)
            sent = [step for step in steps if isinstance(step, DemoStep) and step.answer == 200]
            await processed(desk, [record(step.event, Source.STRIPE) for step in sent], CONFIG)
            report, surprises = await audit_story(env, CONFIG, kept, steps)
            assert surprises == []
            assert {(one.kind, one.cause) for one in report.differences} == {(Kind.EVENT, Cause.DEAD)}
            assert report.differing == run
            assert any(isinstance(step, TimeLeap) for step in steps)
        ben = next(step for step in sent if step.who == "Ben")
        change = "UPDATE billing.subscriptions SET status = 'unpaid' WHERE customer_id = $1 RETURNING subscription_id"
        changed = await ask(database, change, ben.customer_id)
        _, surprises = await audit_story(env, CONFIG, kept, steps)
    assert surprises == [f"the audit found subscription {changed}: no event explains it"]
