"""Each recorded Stripe event, and each example of this project, is processed by the running system to a verdict.

Set BILLING_OUTCOMES=FILE to write the outcomes by type to that file, as a Markdown table.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from local.stripe.builder import ApiShape, StripeEvents
from local.stripe.events import EXAMPLES, example
from local.stripe.post import PostResult, post
from tests.kits.systemkit import RiggedSystem, fetch, running_system
from tests.paths import RECORDED_EVENTS
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

SHARED = RECORDED_EVENTS

ALLOWED = {"applied", "ignored", "stale", "waiting"}

REFUSED: dict[str, str] = {}
"""Recorded events that the gateway must answer with 4xx, by reason. None: `foo.created` and the thin event without
`related_object` are well-formed and signed, so they are accepted, and ignored because of their type."""

DEAD: dict[str, str] = {}
"""Recorded events that must be dead-lettered, by reason. None: all events that Stripe really sent can be read."""


@dataclass(frozen=True)
class Sending:
    """One event to send; `name` says where it is from."""

    name: str
    event: dict[str, Any]

    @property
    def endpoint(self) -> str:
        """The endpoint to which Stripe would send it: by whether it is about a connected account."""
        account = self.event.get("context" if self.event["object"] == "v2.core.event" else "account")
        return "connect" if account else "default"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RiggedSystem]:
    with running_system(tmp_path_factory.mktemp("real") / "state") as running:
        yield running


async def test_each_recorded_event_has_an_allowed_outcome(system: RiggedSystem) -> None:
    if not SHARED.is_dir():
        pytest.skip("the recorded events are not next to this checkout (../shared/events)")
    sendings = recorded(SHARED)
    assert len(sendings) > 150
    await _check(system, sendings, refused=REFUSED, dead=DEAD, title="recorded")


async def test_each_example_event_has_an_allowed_outcome(system: RiggedSystem) -> None:
    sendings = made()
    assert {sending.event["type"] for sending in sendings} == EXAMPLES.keys()
    outcomes = await _check(system, sendings, refused={}, dead={}, title="made")
    assert set(outcomes.values()) == {"applied", "waiting"}  # the objects that a refund refers to are not sent


def recorded(folder: Path) -> list[Sending]:
    """The files in a fixed order. Each gets a new id, test mode (a system serves one
    mode), and a `created` within the last minutes, in that order."""
    paths = sorted(folder.rglob("*.json"))
    begin = int(time.time()) - len(paths)
    sendings = []
    for number, path in enumerate(paths):
        event = json.loads(path.read_bytes())
        is_thin = event["object"] == "v2.core.event"
        created = begin + number
        event["id"] = f"evt_recorded_{begin}_{number}"
        event["livemode"] = False
        event["created"] = datetime.fromtimestamp(created, UTC).isoformat() if is_thin else created
        sendings.append(Sending(str(path.relative_to(folder)), event))
    return sendings


def made() -> list[Sending]:
    """Each example in both API shapes, for the own account and a connected one.

    Each is about objects of its own, so none is stale.
    """
    begin = int(time.time())
    sendings: list[Sending] = []
    for shape in ApiShape:
        for account in (None, "acct_connected"):
            for type_ in EXAMPLES:
                text = json.dumps(example(type_, begin, StripeEvents(shape, account)))
                event = json.loads(text.replace('_1"', f'_made{len(sendings)}"'))
                sendings.append(Sending(f"{type_} {shape} {account}", event))
    return sendings


async def _check(
    system: RiggedSystem,
    sendings: Sequence[Sending],
    *,
    refused: Mapping[str, str],
    dead: Mapping[str, str],
    title: str,
) -> dict[str, str]:
    """Send the events and check their outcomes. Returns the outcome by event id."""
    processes = system.children
    answers = await _post(system, sendings)
    assert {name: answer for name, answer in answers.items() if answer.status != 200 and name not in refused} == {}
    assert {name for name in refused if 400 <= answers[name].status < 500} == set(refused)

    accepted = [sending for sending in sendings if sending.name not in refused]
    outcomes = await _outcomes(system, [sending.event["id"] for sending in accepted])
    expected_dead = {sending.event["id"] for sending in accepted if sending.name in dead}
    odd = {
        sending.name: outcomes[sending.event["id"]]
        for sending in accepted
        if (outcomes[sending.event["id"]][0] == "dead") != (sending.event["id"] in expected_dead)
        or (outcomes[sending.event["id"]][0] not in ALLOWED and sending.event["id"] not in expected_dead)
    }
    assert odd == {}
    assert system.children == processes, "a process died"
    verdicts = {id_: outcome for id_, (outcome, _) in outcomes.items()}
    _report(title, sendings, answers, verdicts)
    return verdicts


async def _post(system: RiggedSystem, sendings: Sequence[Sending]) -> dict[str, PostResult]:
    endpoints = system.config.endpoints
    async with aiohttp.ClientSession() as session:
        return {
            sending.name: await post(
                session,
                system.url_of(sending.endpoint),
                json.dumps(sending.event).encode(),
                endpoints[sending.endpoint].secrets[0],
            )
            for sending in sendings
        }


async def _outcomes(system: RiggedSystem, ids: list[str]) -> dict[str, tuple[str, str | None]]:
    """(outcome, reason) by event id, once the ledger contains all of them."""
    found: dict[str, tuple[str, str | None]] = {}

    async def are_all_there() -> bool:
        rows = await fetch(system, "SELECT event_id, outcome, reason FROM billing.events WHERE event_id = ANY($1)", ids)
        found.update({row["event_id"]: (row["outcome"], row["reason"]) for row in rows})
        return len(found) == len(ids)

    await eventually(are_all_there, within_s=60)
    return found


def _report(
    title: str, sendings: Sequence[Sending], answers: Mapping[str, PostResult], outcomes: Mapping[str, str]
) -> None:
    by_type: dict[str, Counter[str]] = defaultdict(Counter)
    for sending in sendings:
        status = answers[sending.name].status
        by_type[sending.event["type"]][outcomes.get(sending.event["id"], f"refused {status}")] += 1
    lines = [f"| type ({title}) | events | outcome |", "|---|---|---|"]
    for type_, counted in sorted(by_type.items()):
        outcome_counts = ", ".join(f"{outcome} {count}" for outcome, count in counted.most_common())
        lines.append(f"| `{type_}` | {counted.total()} | {outcome_counts} |")
    totals = sum(by_type.values(), Counter[str]())
    outcome_counts = ", ".join(f"{outcome} {count}" for outcome, count in totals.most_common())
    lines.append(f"| all | {totals.total()} | {outcome_counts} |")
    text = "\n".join(lines) + "\n"
    print(text)  # noqa: T201 - the table is what this test is run for; pytest -s shows it
    if path := os.environ.get("BILLING_OUTCOMES"):
        with Path(path).open("a") as file:
            file.write(text + "\n")
