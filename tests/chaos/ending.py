"""The end of a chaos run: wait until all work is done, then check every row.

traffic ─▶ become_quiet: no record uncommitted, no timer due, no event waiting, no mail unsent ─▶ judge ─▶ Verdict
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr

import orjson

from local.stripe.builder import Json
from schemas.record import Record
from schemas.state import Timer
from sinks.outbox.claims import CLAIM
from streams.faust.app import group_of
from streams.rules.catalog import RULES
from tests.chaos import log
from tests.chaos.checker import Findings, Post, Tables, check, differing_rows, read_tables
from tests.chaos.postbox import Postbox
from tests.kits.systemkit import RiggedSystem, fetch
from tests.oracle.fold import Fold
from tests.waiting import eventually

TOPIC = "billing.events"
QUIET_WITHIN_S = 300.0


def settings_with(postbox: Postbox) -> dict[str, str]:
    """Settings for the processes of a run: mail goes to the postbox, and the Stripe address refuses connections."""
    return {
        "BILLING_SMTP_URL": postbox.url,
        "BILLING_STRIPE_API_KEY": "",
        "BILLING_STRIPE_API_BASE": "http://127.0.0.1:9",  # no server listens there
        "BILLING_LOG_LEVEL": "warning",
    }


@dataclass(slots=True)
class Verdict:
    """The checker's findings, the rows that depend on the order of arrival, and the remaining lag."""

    findings: Findings
    converged: list[str]
    """Rows that differ from applying the same events in the order in which they happened."""
    lag: dict[int, int] = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        return self.findings.is_clean and not self.converged and not any(self.lag.values())

    def lines(self) -> list[str]:
        return [
            *self.findings.lines(),
            f"{'not as in true order':>24}  {len(self.converged)}",
            *(f"{'':>26}{example}" for example in self.converged[:5]),
            f"{'uncommitted records':>24}  {sum(self.lag.values())}",
        ]


@dataclass(slots=True)
class Ending:
    """The end of a run on this system. `streams` has one entry per worker group: its streams, or empty for all."""

    system: RiggedSystem
    postbox: Postbox
    streams: list[frozenset[str]] = field(default_factory=lambda: [frozenset()])

    async def become_quiet(self) -> None:
        """Wait until each record is committed, each due timer has fired, and each mail is sent or failed.

        Raises TimeoutError.
        """
        self.postbox.take_back_faults()
        alive = [name for name in self.system.children if _is_billing_process(name)]
        await asyncio.gather(*(asyncio.to_thread(self.system.wait_ready, name) for name in alive))

        async def is_quiet() -> bool:
            await self._hasten()
            (open_,) = await fetch(self.system, _OPEN)
            lag = await asyncio.to_thread(self.lag)
            return not any(open_.values()) and not any(lag.values())

        await eventually(is_quiet, within_s=QUIET_WITHIN_S, every_s=0.2)

    async def judge(self, accepted: Iterable[str], lives: list[list[Json]]) -> Verdict:
        """Check the run. `accepted` are the ids that were answered 200; `lives` are the events of each customer."""
        config = self.system.config
        records = await asyncio.to_thread(log.read_all, self.system.kafka.bootstrap, TOPIC)
        fold = Fold(config, RULES).take_all(records)
        fold.settle()
        tables = await read_tables(self.system.postgres.url)
        _, domain = parseaddr(config.mail.sender)[1].split("@")
        post = Post(self.postbox.folder, domain, self.postbox.cut_off)
        return Verdict(
            findings=check(accepted, records, fold, tables, post, own=frozenset().union(*self.streams)),
            converged=_rows_that_depend_on_order(lives, fold, tables),
            lag=await asyncio.to_thread(self.lag),
        )

    def lag(self) -> dict[int, int]:
        """Uncommitted records by partition, summed over the groups; UNKNOWN while no broker answers."""
        ends = log.ends(self.system.kafka.bootstrap, TOPIC)
        committed = [self.committed(streams) for streams in self.streams]
        if ends is None or None in committed:
            return UNKNOWN
        return {partition: sum(end - done[partition] for done in committed if done) for partition, end in ends.items()}

    def committed(self, streams: frozenset[str] = frozenset()) -> Mapping[int, int] | None:
        """Committed offsets by partition of the group with these streams; None while no broker answers."""
        return log.committed(self.system.kafka.bootstrap, TOPIC, group_of("billing", streams))

    async def _hasten(self) -> None:
        """Skip waiting times of minutes.

        They apply to mails after a failure, to mails claimed by a dispatcher that died or lost Postgres, and to events
        in the waiting room.
        """
        claims = await fetch(self.system, "SELECT DISTINCT claimed_by FROM billing.emails WHERE status = 'sending'")
        alive = f":{self.system.children['dispatcher']}:"
        dead = [row["claimed_by"] for row in claims if alive not in row["claimed_by"]]
        await fetch(self.system, _HASTEN_MAILS, dead, CLAIM)
        await fetch(self.system, _HASTEN_RETRIES)


UNKNOWN: dict[int, int] = {-1: 1}
"""The lag while no broker answers: not zero, so that the run does not count as quiet."""
_OPEN = """
SELECT (SELECT count(*) FROM billing.emails WHERE status IN ('queued', 'sending')) AS mails,
       (SELECT count(*) FROM billing.timers WHERE status = 'pending' AND due_at <= now()) AS timers,
       (SELECT count(*) FROM billing.events WHERE outcome = 'waiting') AS waiting
"""
_HASTEN_RETRIES = """
UPDATE billing.timers SET due_at = now() WHERE kind = 'retry' AND status = 'pending' AND due_at > now()
"""
_HASTEN_MAILS = """
UPDATE billing.emails SET next_attempt_at = now()
WHERE next_attempt_at > now() AND (status = 'queued' OR (status = 'sending' AND claimed_by = ANY($1))
      OR (status = 'sending' AND next_attempt_at < now() + $2::interval - interval '1 minute'))
RETURNING email_key
"""


def _is_billing_process(name: str) -> bool:
    return name.startswith("worker-") or name in ("gateway", "dispatcher", "scheduler")


def _rows_that_depend_on_order(lives: list[list[Json]], fold: Fold, tables: Tables) -> list[str]:
    """Rows that would differ if all events had arrived in order. Timers are left out: late events may move them."""
    ordered = Fold(fold.config, fold.rules)
    for life in lives:
        for number, event in enumerate(life):
            ordered.take(Record("in order", 0, number, None, orjson.dumps(event), (), {}, 0.0))
    return differing_rows(ordered, {kind: rows for kind, rows in tables.state.items() if kind is not Timer})
