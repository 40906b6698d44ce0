"""The whole simulator: one platform, its connected accounts, and the test clock that they share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from local.stripe.simulator.books import AccountSettings, Books, SimulatedClock, StripeEvent
from local.stripe.simulator.changes import on_pending_paid
from local.stripe.simulator.endings import on_gave_up
from local.stripe.simulator.renewals import plan
from local.stripe.simulator.subscriptions import on_closed, on_failed, on_overdue, on_paid


@dataclass(slots=True)
class SimulatedStripe:
    """`now` is where its clock starts, in seconds since the epoch. The same seed gives the same ids."""

    now: int
    seed: str = "0"
    settings: AccountSettings = field(default_factory=AccountSettings)
    clock: SimulatedClock = field(init=False)
    accounts: dict[str, Books] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = SimulatedClock(self.now)
        self.open_account("")

    def open_account(self, account: str) -> Books:
        """Returns the books of a new account; `acct_…` is a connected one, '' the platform's own."""
        books = Books(self.clock, account, self.seed, self.settings)
        books.hooks |= {
            "begun": plan,
            "closed": on_closed,
            "failed": on_failed,
            "gave_up": on_gave_up,
            "overdue": on_overdue,
            "paid": on_paid,
            "pending_paid": on_pending_paid,
        }
        self.accounts[account] = books
        return books

    @property
    def books(self) -> Books:
        """The platform's own."""
        return self.accounts[""]

    def events(self) -> list[StripeEvent]:
        """All accounts' events in the order in which they happened; those of one second account by account."""
        return sorted(self._events(), key=lambda event: event.created)

    def _events(self) -> Iterator[StripeEvent]:
        for books in self.accounts.values():
            yield from books.events
