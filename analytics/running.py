"""The state that an owner's facts before some second add up to, so that later facts do not need all earlier ones.

An owner's newest facts, its tail, are read from the table at each update and folded again, so that facts that arrive a
little late cost nothing more. Everything before the tail is in one checkpoint. Only a fact that is older than the tail
makes all facts be read again.

    facts: ─────────── folded into the checkpoint ───────────┬──── tail ────▶
                                                           since
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile
from types import MappingProxyType
from typing import Any

import orjson

from analytics.imported import is_imported
from analytics.timeline import Moment, Standing, timeline
from schemas.figures import Fact, Owner
from schemas.settings import Config
from schemas.statuses import SubscriptionStatus as Status
from streams.rules.subscription_row import ENDED

LOST = ENDED | {Status.UNPAID}
"""Statuses that mean that a failed invoice of the subscription is lost."""

MOST_SUBSCRIPTIONS = 500
MOST_PERIODS = 1000
"""Bounds on the size of one checkpoint. An owner with more has none, and all its facts are read at each update."""

_FORMAT = 6
"""Part of `fingerprint`: a change of the computation or of the stored form adds 1, and old checkpoints end."""

Period = tuple[datetime, datetime | None]
"""From the first second up to, and without, the second one; None while it lasts."""


@dataclass(frozen=True, slots=True)
class Running:
    """What an owner's facts up to some second add up to. The default is the state before the first fact."""

    standings: Mapping[str, Standing] = field(default_factory=lambda: MappingProxyType({}))
    earned: frozenset[str] = frozenset()
    """Currencies in which the owner has had MRR."""
    at_risk: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))
    """Since when each subscription that is past due, or has been paused meanwhile, has been so."""
    lost: Mapping[str, tuple[Period, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """When each subscription had a status in LOST, earliest first."""
    until: datetime | None = None
    """The last moment; None before the first."""

    def after(self, moments: Iterable[Moment]) -> Running:
        """Returns the state after these moments, which all come later than those before."""
        standings, earned, until = self.standings, set(self.earned), self.until
        at_risk, lost = dict(self.at_risk), {id_: list(periods) for id_, periods in self.lost.items()}
        for moment in moments:
            standings, until = moment.standings, moment.at
            for id_, standing in standings.items():
                if standing.earns:
                    earned.add(standing.currency or "")
                if standing.status is Status.PAST_DUE:
                    at_risk.setdefault(id_, moment.at)
                elif standing.status is not Status.PAUSED:  # compute.risks
                    at_risk.pop(id_, None)
                periods = lost.get(id_, [])
                is_lost, was_lost = standing.status in LOST, bool(periods) and periods[-1][1] is None
                if is_lost and not was_lost:
                    lost[id_] = [*periods, (moment.at, None)]
                elif was_lost and not is_lost:
                    periods[-1] = (periods[-1][0], moment.at)
        lost_periods = {id_: tuple(periods) for id_, periods in lost.items() if periods}
        return Running(standings, frozenset(earned), at_risk, lost_periods, until)

    def lost_at(self, subscription_id: str, since: datetime) -> datetime | None:
        """Returns the first second from `since` on in which the subscription was lost, or None."""
        for begins, ends in self.lost.get(subscription_id, ()):
            if ends is None or ends > since:
                return max(begins, since)
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The row of an owner's running state. `since` is the first second that is not part of it."""

    account: str
    livemode: bool
    owner: str
    since: datetime
    made_by: str
    """The fingerprint of what computed it. Another one makes it invalid."""
    state: Mapping[str, Any]

    @property
    def of(self) -> Owner:
        return Owner(self.account, self.livemode, self.owner)


def checkpoint(
    owner: Owner, running: Running, tail: Sequence[Fact], config: Config, *, keep: int, made_by: str
) -> Checkpoint | None:
    """Folds all of `tail` but its last `keep` facts into `running`, and returns that as a checkpoint.

    `tail` must be in order. Facts of one second stay together. Returns None if nothing can be folded, or if the state
    is too large.
    """
    if len(tail) <= keep:
        return None
    since = tail[-keep].created
    folded = list(takewhile(lambda fact: fact.created < since, tail))
    if not folded or any(is_imported(fact) for fact in tail[len(folded) :]):
        return None  # an imported fact says how it was before, so it is folded with all others of its import
    after = running.after(timeline(folded, config, running.standings, since=running.until, until=since))
    if len(after.standings) > MOST_SUBSCRIPTIONS or sum(map(len, after.lost.values())) > MOST_PERIODS:
        return None
    return Checkpoint(
        account=owner.account,
        livemode=owner.livemode,
        owner=owner.owner,
        since=since,
        made_by=made_by,
        state=_packed(after),
    )


def running_of(stored: Checkpoint) -> Running:
    """Returns the state that is in a checkpoint."""
    state = stored.state
    return Running(
        {
            id_: Standing(Status(status) if status else None, currency, rates, listed, said)
            for id_, (status, currency, rates, listed, said) in state["standings"].items()
        },
        frozenset(state["earned"]),
        {id_: datetime.fromisoformat(since) for id_, since in state["at_risk"].items()},
        {
            id_: tuple((datetime.fromisoformat(a), datetime.fromisoformat(b) if b else None) for a, b in periods)
            for id_, periods in state["lost"].items()
        },
        datetime.fromisoformat(state["until"]),
    )


def fingerprint(config: Config) -> str:
    """Identifies what figures depend on besides the facts: plans, dunning steps and the computation itself."""
    seen = [
        _FORMAT,
        {plan: plan_config.prices for plan, plan_config in config.plans.items()},
        [step.model_dump(mode="json") for step in config.rules.dunning],
    ]
    return hashlib.sha256(orjson.dumps(seen)).hexdigest()[:16]


def _packed(running: Running) -> dict[str, Any]:
    return {
        "standings": {
            id_: [standing.status, standing.currency, dict(standing.rates), dict(standing.listed), dict(standing.said)]
            for id_, standing in running.standings.items()
        },
        "earned": sorted(running.earned),
        "until": running.until.isoformat() if running.until else None,
        "at_risk": {id_: since.isoformat() for id_, since in running.at_risk.items()},
        "lost": {
            id_: [[begins.isoformat(), ends.isoformat() if ends else None] for begins, ends in periods]
            for id_, periods in running.lost.items()
        },
    }
