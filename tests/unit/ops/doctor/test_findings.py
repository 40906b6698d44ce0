"""F8: each check ends with findings, also one that hangs or has a bug; rights and endpoints are judged by pure code."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from confluent_kafka.admin._acl import AclOperation

from ops.doctor.checks import CHECKS
from ops.doctor.findings import Check, CheckResult, Situation, Status, ok, run_checks
from ops.doctor.kafka_checks import missing_rights
from ops.doctor.stripe_checks import READ, endpoint_findings, event_types, stripe_endpoints
from schemas.errors import StoreUnavailable
from schemas.plugin import AnyObject, Plugin
from schemas.plugin_registry import installed_for
from schemas.settings import Config
from tests.paths import ROOT

NOWHERE = cast("Situation", None)
NEEDED = ["invoice.paid", "customer.created"]


async def _hangs(_: Situation) -> Sequence[CheckResult]:
    await asyncio.Event().wait()
    return []


async def _breaks(_: Situation) -> Sequence[CheckResult]:
    raise KeyError("x")


async def _is_away(_: Situation) -> Sequence[CheckResult]:
    raise StoreUnavailable("no answer from Postgres")


async def _works(_: Situation) -> Sequence[CheckResult]:
    return [ok("fine")]


async def test_F8_every_check_has_an_end_and_a_remedy() -> None:
    checks = [Check(run.__name__, run, "do this") for run in (_hangs, _breaks, _is_away, _works)]
    found = await run_checks(checks, NOWHERE, timeout_s=0.2)
    assert [(one.check, one.status) for one in found] == [
        ("_hangs", Status.FAILED),
        ("_breaks", Status.FAILED),
        ("_is_away", Status.FAILED),
        ("_works", Status.OK),
    ]
    assert [one.remedy for one in found] == ["do this", "do this", "do this", ""]
    assert "no answer within 0.2 s" in found[0].text
    assert all(check.remedy for check in CHECKS)


@pytest.mark.parametrize(
    ("allowed", "missing"),
    [
        (None, []),
        ([AclOperation.ALL], []),
        ([AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE], []),
        ([AclOperation.READ, AclOperation.DESCRIBE], ["Write"]),
        ([], ["Describe", "Read", "Write"]),
    ],
)
def test_F8_missing_rights_are_named(allowed: list[AclOperation] | None, missing: list[str]) -> None:
    assert missing_rights(allowed) == missing


@pytest.mark.parametrize(
    ("at_stripe", "statuses", "words"),
    [
        ([], [Status.FAILED], "Stripe has no endpoint for default"),
        ([{"enabled_events": ["*"]}], [Status.OK], "is enabled"),
        ([{"enabled_events": NEEDED}], [Status.OK], "is enabled"),
        ([{"enabled_events": ["invoice.paid"]}], [Status.FAILED], "lacks 1 event types"),
        ([{"enabled_events": ["*"], "status": "disabled"}], [Status.FAILED], "is disabled at Stripe"),
        ([{"enabled_events": ["*"], "url": "http://x.example/webhooks/stripe"}], [Status.WARNING], "is not https"),
        ([{"enabled_events": ["*"]}, {"enabled_events": []}], [Status.FAILED], "lacks 2 event types"),
    ],
)
def test_F8_an_endpoint_at_stripe_is_judged(
    at_stripe: list[dict[str, Any]], statuses: list[Status], words: str
) -> None:
    here = [{"url": "https://x.example/webhooks/stripe", "status": "enabled"} | one for one in at_stripe]
    found = endpoint_findings("default", here, "https://x.example", NEEDED)
    assert [one.status for one in found] == statuses
    assert words in found[0].text
    assert found[0].status is Status.OK or found[0].remedy


def test_F5_stripe_does_not_send_own_events() -> None:
    """Neither their types nor their endpoints are missed in Stripe's dashboard."""
    plugin = Plugin("acme", own_events=("acme.made",))
    plugin.on("acme.made", "payout.paid", "timer.acme.call", model=AnyObject)(lambda _event, _known: [])
    with installed_for(plugin):
        types = event_types()
        assert {"acme.made", "timer.acme.call"}.isdisjoint(types)
        assert "payout.paid" in types
    config = Config.model_validate({"endpoints": {"default": {}, "product": {"own_events": True}}})
    assert stripe_endpoints(config) == ["default"]


def test_F8_the_page_lists_the_event_types_and_rights_that_the_check_asks_for() -> None:
    page = (ROOT / "docs" / "going-live.md").read_text()
    block = page.partition("```text\n")[2].partition("```")[0]
    assert block.split() == event_types()
    assert all(f"| {right} |" in page for right in READ.values())
    assert Path(ROOT / "docs" / "going-live.md").is_file()
