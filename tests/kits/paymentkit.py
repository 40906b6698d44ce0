"""State in memory with waiting events and timers, for tests of the payments stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from local.stripe.builder import Json
from schemas.errors import NotKnownYet
from schemas.state import Dispute, PaymentLink, PaymentMethod, Row, Timer
from schemas.timer import timer_event
from streams.apply import apply
from tests.kits.rulekit import RulesWorld, read

AT_ONCE = ("dispute-link", "method-detached")
"""Kinds of timers that are due as soon as they are started."""


@dataclass(slots=True)
class PatientWorld(RulesWorld):
    """An event that misses a row waits and is tried again after each event. The waiting room does this by time."""

    waiting: list[Json] = field(default_factory=list)
    fired: set[tuple[str, Any]] = field(default_factory=set)

    def apply(self, *events: Json) -> PatientWorld:
        for event in events:
            self.waiting.append(event)
            self._try_all()
        return self

    def _try_all(self) -> None:
        has_progress = True
        while has_progress:
            tried, self.waiting = self.waiting, []
            for event in tried:
                try:
                    RulesWorld.apply(self, event)
                except NotKnownYet:
                    self.waiting.append(event)
            has_progress = bool(self.waiting) and len(self.waiting) < len(tried)

    def give_up(self) -> PatientWorld:
        """Process all waiting events in order, as at the limit. Events without an `at_last` effect keep waiting."""
        tried, self.waiting = self.waiting, []
        for event in tried:
            try:
                RulesWorld.apply(self, event)
            except NotKnownYet as error:
                if error.at_last is None:
                    self.waiting.append(event)
                else:
                    apply(error.at_last, read(event)[0], self.known)
        return self

    def fire(self, *kinds: str, until: int | None = None) -> PatientWorld:
        """Fire the pending timers of these kinds (default: all) that are due at `until`, in order of due time."""
        while due := [timer for timer in self.pending().values() if self._is_to_fire(timer, kinds, until)]:
            timer = min(due, key=lambda timer: (timer.due_at, timer.timer_key))
            self.fired.add((timer.timer_key, timer.due_at))
            self.apply(timer_event(timer))
        return self

    def _is_to_fire(self, timer: Timer, kinds: tuple[str, ...], until: int | None) -> bool:
        is_selected = not kinds or timer.kind in kinds
        is_due = until is None or timer.due_at.timestamp() <= until
        return is_selected and is_due and (timer.timer_key, timer.due_at) not in self.fired

    def payment_method(self, id_: str = "pm_1", account: str = "") -> PaymentMethod:
        row = self.known.payment_method(account, id_)
        assert row is not None
        return row

    def dispute(self, id_: str = "dp_1", account: str = "") -> Dispute:
        row = self.known.dispute(account, id_)
        assert row is not None
        return row

    def rows_of_timers(self) -> list[Timer]:
        return self.rows(Timer)

    def state(self) -> dict[str, Any]:
        """Like RulesWorld's, without timers that send nothing: of a dispute's or a card's former date."""
        kinds: list[type[Row]] = [PaymentMethod, Dispute, PaymentLink]
        state = RulesWorld.state(self) | {kind.__name__: {row.key: row for row in self.rows(kind)} for kind in kinds}
        deadlines = {row.due_by.isoformat() for row in self.rows(Dispute) if row.due_by is not None}
        expiries = {
            f"{row.payment_method_id}:{row.exp_year}-{row.exp_month or 0:02d}" for row in self.rows(PaymentMethod)
        }
        timers = {
            key: (due_at, data)
            for key, (due_at, data) in state["pending timers"].items()
            if not (key.startswith("dispute-due") and data["due_by"] not in deadlines)
            if not (key.startswith("card-expiring") and ":".join(key.split(":")[2:4]) not in expiries)
        }
        return state | {"pending timers": timers}
