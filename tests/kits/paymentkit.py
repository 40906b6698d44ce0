"""A world in memory in which events may wait and timers fire, for the tests of the payments stream."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from local.stripe.builder import Json
from schemas.errors import NotKnownYet
from schemas.state import Dispute, PaymentMethod, Row, Timer
from schemas.timer import timer_event
from streams.apply import apply
from tests.kits.rulekit import World, read

AT_ONCE = ("dispute-link", "method-detached")
"""Timers that are due as soon as they are set."""


@dataclass(slots=True)
class PatientWorld(World):
    """What is missing something waits, and is tried again after each event, as the waiting room does in time."""

    waiting: list[Json] = field(default_factory=list)
    fired: set[tuple[str, Any]] = field(default_factory=set)

    def tell(self, *events: Json) -> PatientWorld:
        for event in events:
            self.waiting.append(event)
            self._try_all()
        return self

    def _try_all(self) -> None:
        is_moving = True
        while is_moving:
            tried, self.waiting = self.waiting, []
            for event in tried:
                try:
                    World.tell(self, event)
                except NotKnownYet:
                    self.waiting.append(event)
            is_moving = bool(self.waiting) and len(self.waiting) < len(tried)

    def give_up(self) -> PatientWorld:
        """The limit of all that waits, in the order in which it came; what cannot do without what it misses stays."""
        tried, self.waiting = self.waiting, []
        for event in tried:
            try:
                World.tell(self, event)
            except NotKnownYet as error:
                if error.at_last is None:
                    self.waiting.append(event)
                else:
                    apply(error.at_last, read(event)[0], self.known)
        return self

    def fire(self, *kinds: str, until: int | None = None) -> PatientWorld:
        """Fires what is pending of these kinds (of all, without any) and due by then, in the order of due times."""
        while due := [timer for timer in self.pending().values() if self._is_to_fire(timer, kinds, until)]:
            timer = min(due, key=lambda timer: (timer.due_at, timer.timer_key))
            self.fired.add((timer.timer_key, timer.due_at))
            self.tell(timer_event(timer))
        return self

    def _is_to_fire(self, timer: Timer, kinds: tuple[str, ...], until: int | None) -> bool:
        is_asked = not kinds or timer.kind in kinds
        is_due = until is None or timer.due_at.timestamp() <= until
        return is_asked and is_due and (timer.timer_key, timer.due_at) not in self.fired

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
        kinds: list[type[Row]] = [PaymentMethod, Dispute]
        return World.state(self) | {kind.__name__: {row.key: row for row in self.rows(kind)} for kind in kinds}
