"""What a random life does with subscriptions. Each step returns whether it applied."""

from __future__ import annotations

from local.stripe.simulator import changes, checkout, customers, endings
from local.stripe.simulator.books import DAY_S
from local.stripe.simulator.discounts import COUPONS
from local.stripe.simulator.person import SimulatedPerson
from local.stripe.simulator.prices import ADD_ONS, PLAN_PRICES, PRICES
from local.stripe.simulator.renewals import resume
from local.stripe.simulator.subscriptions import create_subscription, items_of, period_of


class SubscriptionSteps(SimulatedPerson):
    def _items(self) -> tuple[list[tuple[str, int]], str]:
        price = self.random.choice(PLAN_PRICES)
        chosen = PRICES[price]
        currency = self.random.choice([chosen["currency"], *chosen.get("_currencies", {})])
        items = [(price, self.random.choice([1, 1, 1, 5, 35]))]
        is_plain = chosen["recurring"]["interval"] == "month" and currency == "eur"
        if is_plain and self.chance(0.3):
            items.insert(self.random.choice([0, 1]), (self.random.choice(ADD_ONS), 1))
        return items, currency

    def _coupon(self) -> str | None:
        """Mostly none. Which one it is follows from the past, so that a life draws one number for it."""
        chosen: str | None = self.random.choice([None, None, None, "some", "FREE"])
        return [*COUPONS][self.books.counts["evt"] % len(COUPONS)] if chosen == "some" else chosen

    def subscribe(self) -> bool:
        """Through a checkout; sometimes as another customer of the same user."""
        items, currency = self._items()
        known = self.customer() if self.chance(0.7) else None
        if known is not None and known["currency"] not in (None, currency):
            return False
        declined = self.random.choice([0, 0, 0, 1, 2])
        subscription = checkout.subscribe(
            self.books,
            items,
            email=(known or {}).get("email") or self.address(),
            name=self.name,
            user=self.user,
            customer=known,
            currency=currency,
            declined_first=declined,
            gives_up=self.chance(0.1),
            trial_days=self.random.choice([0, 0, 2, 14]),
            coupon=self._coupon(),
            is_flexible=self.chance(),
            missing_method=self.random.choice(["create_invoice", "pause", "cancel"]),
        )
        if subscription["customer"] not in self.own:
            self.own.append(subscription["customer"])
        return True

    def subscribe_by_hand(self) -> bool:
        """Somebody makes the subscription in the dashboard or the API, perhaps without a card, perhaps by invoice."""
        items, currency = self._items()
        customer = self.customer()
        if customer is None:
            customer = customers.create_customer(self.books, email=self.address(), name=self.name, user=self.user)
            self.own.append(customer["id"])
        if customer["currency"] not in (None, currency):
            return False
        if self.chance(0.6):
            customers.attach_card(self.books, customer, self.random.choice(["ok", "ok", "declined", "action"]))
        create_subscription(
            self.books,
            customer,
            items,
            currency=currency,
            collection=self.random.choice(["charge_automatically", "charge_automatically", "send_invoice"]),
            trial_days=self.random.choice([0, 0, 7]),
            is_flexible=self.chance(),
            shows_start=self.chance(),
            missing_method=self.random.choice(["create_invoice", "pause", "cancel"]),
        )
        return True

    # -- subscriptions -------------------------------------------------------------------------------------------

    def change_price(self) -> bool:
        subscription = self.subscription("active", "past_due", "trialing")
        if subscription is None or subscription["pending_update"] is not None:
            return False
        currency = subscription["currency"]
        fitting = [
            id_ for id_ in PLAN_PRICES if currency in (PRICES[id_]["currency"], *PRICES[id_].get("_currencies", {}))
        ]
        first = items_of(subscription)[0]
        if first["price"]["id"] not in PLAN_PRICES or not fitting:
            return False
        changes.change_price(
            self.books,
            subscription,
            self.random.choice(fitting),
            self.random.choice([1, 7, first.get("quantity", 1)]),
            billing=self.random.choice(["now", "next", "none"]),
            if_paid=self.chance(0.4),
        )
        return True

    def change_items(self) -> bool:
        subscription = self.subscription("active", "trialing")
        if subscription is None or subscription["currency"] != "eur":
            return False
        there = {one["price"]["id"] for one in items_of(subscription)}
        monthly = all(one["price"]["recurring"]["interval"] == "month" for one in items_of(subscription))
        add_on = self.random.choice(ADD_ONS)
        if add_on in there and len(there) > 1:
            changes.remove_item(self.books, subscription, add_on)
        elif add_on not in there and monthly:
            changes.add_item(self.books, subscription, add_on, first=self.chance())
        else:
            return False
        return True

    def change_trial(self) -> bool:
        """A trial is given, moved, or ended early."""
        subscription = self.subscription("active", "past_due", "trialing")
        if subscription is None or subscription["cancel_at"] is not None:
            return False
        if subscription["status"] == "trialing" and self.chance():
            changes.end_trial(self.books, subscription)
        else:
            changes.move_trial(self.books, subscription, self.books.now + self.random.choice([5, 20]) * DAY_S)
        return True

    def pause(self) -> bool:
        subscription = self.subscription("active", "past_due")
        if subscription is None:
            return False
        if subscription["pause_collection"] is not None:
            changes.resume_collection(self.books, subscription)
            return True
        behavior = self.random.choice(["keep_as_draft", "mark_uncollectible", "void"])
        resumes_at = self.random.choice([None, self.books.now + 40 * DAY_S])
        changes.pause_collection(self.books, subscription, behavior, resumes_at)
        return True

    def resume(self) -> bool:
        subscription = self.subscription("paused")
        if subscription is None or customers.is_deleted(self.books, subscription["customer"]):
            return False
        customers.attach_card(self.books, self.books.get("customer", subscription["customer"]))
        resume(self.books, subscription)
        return True

    def schedule(self) -> bool:
        subscription = self.subscription("active")
        is_plain = subscription is not None and subscription["currency"] == "eur" and not subscription["schedule"]
        if subscription is None or not is_plain or items_of(subscription)[0]["price"]["id"] not in PLAN_PRICES:
            return False
        if items_of(subscription)[0]["price"]["recurring"]["interval"] != "month":
            return False
        changes.schedule_change(self.books, subscription, self.random.choice(["price_pro", "price_team"]))
        return True

    def cancel(self) -> bool:
        subscription = self.subscription()
        if subscription is None:
            return False
        if subscription["cancel_at"] is not None and self.chance(0.6):
            endings.undo(self.books, subscription)
            return True
        match self.random.choice(["now", "period", "date"]):
            case "now":
                endings.end(self.books, subscription)
            case "period":
                endings.cancel_at_period_end(self.books, subscription)
            case _:
                moment = self.random.choice([self.books.now + 10 * DAY_S, period_of(subscription)[1] + 5 * DAY_S])
                endings.cancel_at(self.books, subscription, max(moment, self.books.now + 60))
        return True
