"""The demo's story: signed events of six customers, timers that fire over a month, and the expected result of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from local.demo.people import DemoPerson, DemoStep, Due, TimeLeap
from local.stripe import payments as pay
from local.stripe.builder import DAY_S, MONTH_S, ApiShape, Json, Price, StripeEvents

STARTER = Price("price_starter_monthly", 1900, "eur", "month", "Starter")
PRO = Price("price_pro_monthly", 4900, "eur", "month", "Pro")


TOO_LATE = frozenset({("Ada", "trial-reminder"), ("Ada", "trial-ending")})
"""Mails, by person and template, that are withheld: Ada's trial ended two days before the demo runs."""

OVERTAKEN = frozenset(
    {
        ("Ben", "payment-failed"),  # he pays some steps later
        ("Ben", "payment-urgent"),
        ("Cleo", "subscription-welcome"),  # she cancels two steps later
        ("Dana", "payment-final"),  # Stripe closes the invoice in the next step
        ("Emil", "card-expiring"),  # depends on the days that are left of this month
        ("Finn", "dispute-due"),  # he wins the dispute in one of the next steps
    }
)
"""Mails, by person and template, that are sent or withheld: the news may be over before the dispatcher takes them."""


@dataclass(slots=True)
class DemoStory:
    """The steps of today and of later days (by day), and the timers that fire in between."""

    now: int
    steps: list[DemoStep] = field(default_factory=list)
    later: dict[int, list[DemoStep]] = field(default_factory=lambda: {3: [], 15: [], 32: []})
    timers: list[Due] = field(default_factory=list)

    def all_steps(self) -> list[DemoStep | TimeLeap]:
        """Return all steps in order, with a time leap before those of each later day."""
        found: list[DemoStep | TimeLeap] = [*self.steps]
        before = self.now
        for days, steps in self.later.items():
            until = self.now + days * DAY_S
            due = sorted((timer for timer in self.timers if before < timer.at <= until), key=lambda timer: timer.at)
            found += [TimeLeap(days=days, fires=tuple(due)), *steps]
            before = until
        return found


def story(now: int) -> list[DemoStep | TimeLeap]:
    """Return the story. `now` is in seconds since the epoch; events range from a month before it to a month after."""
    story = DemoStory(now)
    story.steps += [*_ada(now), *_ben(now)]
    for add_to in (_cleo, _dana, _emil, _finn):
        add_to(story, now)
    story.steps += _trouble(now)
    return story.all_steps()


def _ada(now: int) -> Sequence[DemoStep]:
    """A trial that becomes a paid subscription and is upgraded."""
    ada = DemoPerson("Ada Lovelace", StripeEvents())
    start, trial_end = now - 16 * DAY_S, now - 2 * DAY_S
    trial: Json = {"status": "trialing", "trial_start": start, "trial_end": trial_end, "end": trial_end}
    paid = ada.invoice(1, STARTER, trial_end, status="paid")
    subscribed = ada.step(
        "starts a trial",
        "customer.subscription.created",
        ada.subscription(STARTER, start, **trial),
        start + 2,
        mails=("subscription-welcome",),
        fires=(ada.due("trial-reminder", "a week before the trial ends", trial_end - 7 * DAY_S, "trial-reminder"),),
    )
    active = ada.subscription(STARTER, trial_end, created=start, trial_start=start, trial_end=trial_end)
    grown = ada.subscription(PRO, trial_end, created=start, trial_start=start, trial_end=trial_end)
    receipt = ada.step("first payment", "invoice.paid", paid, trial_end + 60, mails=("payment-receipt",))
    session = ada.make.checkout_session(
        f"cs_{ada.run}",
        customer=ada.customer_id,
        subscription=ada.subscription_id,
        amount=0,
        payment_status="no_payment_required",
        email=ada.email,
        name=ada.name,
        user=f"user_{ada.run}",
        created=start,
    )
    return [
        ada.created(start),
        subscribed,
        replace(subscribed, what="Stripe sends it again", outcome=None, mails=(), is_again=True),
        ada.step("checkout links her user", "checkout.session.completed", session, start + 3),
        ada.step(
            "trial ends in 3 days",
            "customer.subscription.trial_will_end",
            ada.subscription(STARTER, start, **trial),
            trial_end - 3 * DAY_S,
            mails=("trial-ending",),
        ),
        ada.step("trial becomes paid", "customer.subscription.updated", active, trial_end + 30),
        receipt,
        ada.step("second event of the same payment", "invoice.payment_succeeded", paid, trial_end + 60),
        replace(receipt, what="Stripe sends it again", outcome=None, mails=(), is_again=True),
        ada.step(
            "upgrades to Pro",
            "customer.subscription.updated",
            grown,
            now - 3600,
            previous=ada.make.price_change(STARTER),
            mails=("plan-changed",),
        ),
        ada.step("an older update arrives late", "customer.subscription.updated", active, now - 7200, outcome="stale"),
    ]


def _ben(now: int) -> Sequence[DemoStep]:
    """A payment that is declined twice and then succeeds. These events have the older API shape."""
    ben = DemoPerson("Ben Franklin", StripeEvents(ApiShape.OLD))
    start = now - MONTH_S - DAY_S
    due = start + MONTH_S
    past_due = ben.subscription(PRO, due, created=start, status="past_due")
    return [
        ben.created(start),
        ben.step(
            "an update arrives before the creation",
            "customer.subscription.updated",
            ben.subscription(PRO, start),
            start + 20,
            previous={"default_payment_method": None},
            mails=(),
        ),
        ben.step(
            "the creation arrives after it",
            "customer.subscription.created",
            ben.subscription(PRO, start),
            start + 2,
            outcome="stale",
            mails=("subscription-welcome",),
        ),
        ben.step(
            "first payment",
            "invoice.paid",
            ben.invoice(1, PRO, start, status="paid"),
            start + 21,
            mails=("payment-receipt",),
        ),
        ben.step(
            "the card is declined",
            "invoice.payment_failed",
            ben.invoice(2, PRO, due, attempts=1, next_attempt=due + 3600),
            due + 60,
            mails=("payment-failed",),
        ),
        ben.step("becomes past due", "customer.subscription.updated", past_due, due + 61),
        ben.step(
            "declined again",
            "invoice.payment_failed",
            ben.invoice(2, PRO, due, attempts=2, next_attempt=due + 7200),
            due + 3600,
            mails=("payment-urgent",),
        ),
        ben.step(
            "pays with a new card",
            "invoice.paid",
            ben.invoice(2, PRO, due, status="paid", attempts=3, paid_at=due + 5000),
            due + 5000,
            mails=("payment-receipt",),
        ),
        ben.step(
            "is active again",
            "customer.subscription.updated",
            ben.subscription(PRO, due, created=start),
            due + 5001,
            previous={"status": "past_due"},
        ),
    ]


def _cleo(story: DemoStory, now: int) -> None:
    """A customer who cancels and is erased later."""
    cleo = DemoPerson("Cleo Patra", StripeEvents())
    start = now - 20 * DAY_S
    gone = cleo.subscription(STARTER, start, status="canceled", canceled_at=now - 60, ended_at=now - 60)
    story.timers += [
        cleo.due("win-back", "14 days after she canceled", now - 60 + 14 * DAY_S, "win-back"),
        cleo.due("erase", "30 days after: her data is erased", now - 60 + 30 * DAY_S),
    ]
    story.steps += [
        cleo.created(start),
        cleo.step(
            "subscribes",
            "customer.subscription.created",
            cleo.subscription(STARTER, start),
            start + 2,
            mails=("subscription-welcome",),
        ),
        cleo.step(
            "pays",
            "invoice.paid",
            cleo.invoice(1, STARTER, start, status="paid"),
            start + 3,
            mails=("payment-receipt",),
        ),
        cleo.step(
            "cancels",
            "customer.subscription.deleted",
            gone,
            now - 60,
            mails=("churn-survey", "subscription-canceled"),
        ),
    ]


def _dana(story: DemoStory, now: int) -> None:
    """A card that is always declined: every dunning step, then an uncollectible invoice."""
    dana = DemoPerson("Dana Debtor", StripeEvents())
    start = now - MONTH_S

    def declined(attempt: int, at: int, what: str, mail: str, retry: int | None) -> DemoStep:
        invoice = dana.invoice(1, PRO, now - 90, attempts=attempt, next_attempt=retry)
        return dana.step(what, "invoice.payment_failed", invoice, at, mails=(mail,))

    def reported(status: str, at: int, what: str, before: str) -> DemoStep:
        object_ = dana.subscription(PRO, now - 90, created=start, status=status)
        return dana.step(what, "customer.subscription.updated", object_, at, previous={"status": before})

    subscription = dana.subscription(PRO, start)
    welcome = ("subscription-welcome",)
    first, last = now - 50, now + 15 * DAY_S
    story.steps += [
        dana.created(start),
        dana.step("subscribes", "customer.subscription.created", subscription, start + 2, mails=welcome),
        declined(1, first, "the card is declined", "payment-failed", now + 3 * DAY_S),
        reported("past_due", first + 1, "becomes past due", "active"),
    ]
    reminder = dana.due("dunning-reminder", "still unpaid", first + 3 * DAY_S, "payment-reminder")
    story.timers.append(reminder)
    story.later[3].append(declined(2, now + 3 * DAY_S + 60, "declined again", "payment-urgent", last))
    written_off = dana.invoice(1, PRO, now - 90, status="uncollectible", attempts=4)
    story.later[15] += [
        declined(4, last + 60, "declined for the last time", "payment-final", None),
        reported("unpaid", last + 61, "becomes unpaid", "past_due"),
        dana.step("Stripe gives up", "invoice.marked_uncollectible", written_off, last + 62),
        reported("active", last + 63, "owes nothing that Stripe still collects", "unpaid"),
    ]


def _emil(story: DemoStory, now: int) -> None:
    """A card that will be charged after a long trial, and expires before, with two reminders."""
    emil = DemoPerson("Emil Expiring", StripeEvents())
    year, month = _first_month_after(now + 8 * DAY_S)
    expiry = int(datetime(year, month, 1, tzinfo=UTC).timestamp())
    good_until = (year, month - 1) if month > 1 else (year - 1, 12)
    card = pay.payment_method(
        emil.make, f"pm_{emil.run}", customer=emil.customer_id, expiry=good_until, created=now - 40
    )
    steps = [
        emil.due("card-expiring", f"{days} days before his card expires", expiry - days * DAY_S, "card-expiring")
        for days in (30, 7)
    ]
    trial = emil.subscription(STARTER, now - 40, status="trialing", trial_end=now + 60 * DAY_S)
    welcome = ("subscription-welcome",)
    overdue = tuple(timer for timer in steps if timer.at <= now)
    story.timers += steps
    story.steps += [
        emil.created(now - 42),
        emil.step("begins a trial", "customer.subscription.created", trial, now - 41, mails=welcome),
        emil.step("adds a card", "payment_method.attached", card, now - 40, fires=overdue),
    ]


def _finn(story: DemoStory, now: int) -> None:
    """A payment that is disputed and on hold until the dispute is won."""
    finn = DemoPerson("Finn Fraud", StripeEvents(ApiShape.OLD))
    paid = finn.invoice(1, STARTER, now - DAY_S, status="paid")
    due_by = now + 4 * DAY_S

    def dispute(status: str) -> Json:
        return pay.dispute(
            finn.make,
            f"dp_{finn.run}",
            amount=STARTER.amount,
            charge=paid["charge"],
            payment_intent=paid["payment_intent"],
            status=status,
            due_by=due_by,
            created=now - 30,
        )

    opened, won = dispute("needs_response"), dispute("won")
    subscription, welcome = finn.subscription(STARTER, now - DAY_S), ("subscription-welcome",)
    story.steps += [
        finn.created(now - DAY_S),
        finn.step("subscribes", "customer.subscription.created", subscription, now - DAY_S + 1, mails=welcome),
        finn.step("pays", "invoice.paid", paid, now - DAY_S + 2, mails=("payment-receipt",)),
        finn.step("the bank disputes it", "charge.dispute.created", opened, now - 30, mails=("dispute-opened",)),
    ]
    story.timers.append(finn.due("dispute-due", "2 days before evidence is due", due_by - 2 * DAY_S, "dispute-due"))
    story.later[3].append(finn.step("the dispute is won", "charge.dispute.closed", won, now + 3 * DAY_S + 90))


def _first_month_after(moment: int) -> tuple[int, int]:
    """Return year and month of the first month that begins after `moment` (UTC)."""
    at = datetime.fromtimestamp(moment, UTC)
    return (at.year + 1, 1) if at.month == 12 else (at.year, at.month + 1)


def _trouble(now: int) -> Sequence[DemoStep]:
    """Deliveries that the gateway must refuse, a dead event, and a type without a rule."""
    eve = DemoPerson("Eve Dropper", StripeEvents())
    broken = eve.subscription(STARTER, now - 30, status="on_fire")
    return [
        DemoStep(
            who="Eve",
            customer_id=eve.customer_id,
            what="a forged signature",
            event=eve.make.event("invoice.paid", eve.invoice(1, PRO, now, status="paid"), now),
            outcome=None,
            answer=400,
            is_forged=True,
        ),
        DemoStep(
            who="Eve",
            customer_id=eve.customer_id,
            what="a live event in a test-mode system",
            event=StripeEvents(livemode=True).event("invoice.paid", eve.invoice(2, PRO, now, status="paid"), now),
            outcome=None,
            answer=400,
        ),
        eve.step("a status that does not exist", "customer.subscription.updated", broken, now - 30, outcome="dead"),
        eve.step(
            "a type without a rule", "product.created", {"id": "prod_1", "object": "product"}, now, outcome="ignored"
        ),
    ]
