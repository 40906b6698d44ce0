"""What a random life does with money. Each step returns whether it applied."""

from __future__ import annotations

from local.stripe.simulator import checkout, collection, credits, customers, disputes, endings, invoices
from local.stripe.simulator.books import DAY_S
from local.stripe.simulator.person import SimulatedPerson
from local.stripe.simulator.refunds import refund, refundable


class MoneySteps(SimulatedPerson):
    def buy(self) -> bool:
        """As a customer, as a guest, or as a new customer who never subscribes."""
        customer = self.customer() if self.chance(0.8) else None
        if customer is None and self.own:
            customer = customers.create_customer(self.books, email=self.address(), name=self.name, user=self.user)
            self.own.append(customer["id"])
        is_debit = customer is not None and self.chance(0.3)
        method = (
            customers.attach_debit(self.books, customer, self.random.choice(["ok", "declined"]), default=False)
            if customer is not None and is_debit
            else None
        )
        session = checkout.buy(
            self.books,
            self.random.choice([4900, 0, 700]),
            self.random.choice(["eur", "jpy", "kwd"]),
            email=(customer or {}).get("email") or self.address(),
            customer=customer,
            user=self.user if customer else None,
            method=method,
            with_invoice=customer is not None and self.chance(),
            by_hand=not is_debit and self.chance(0.2),
            invoice_first=self.chance(),
        )
        if session["payment_intent"] is not None:
            books, is_taken = self.books, self.chance(0.7)
            moment = books.now + self.random.choice([0, DAY_S])
            books.clock.at(moment, lambda: checkout.capture_purchase(books, session, is_taken=is_taken))
        return True

    def leave_checkout(self) -> bool:
        checkout.leave(self.books, f"{self.mailbox}@example.com")
        return True

    # -- the customer and their cards ----------------------------------------------------------------------------

    def rename(self) -> bool:
        """Any of the person's customers, not only the newest."""
        email = self.random.choice([None, f"{self.mailbox}.new@example.com", f"{self.mailbox}@example.com"])
        name = self.random.choice(["Ada Vo", "Ada Ltd"])
        customer = self.pick(self.customers())
        if customer is not None:
            customers.update_customer(self.books, customer, email=email, name=name)
        return customer is not None

    def change_card(self) -> bool:
        customer = self.customer()
        if customer is None:
            return False
        behavior = self.random.choice(["ok", "ok", "declined", "action"])
        if self.chance(0.2):
            customers.attach_debit(self.books, customer, self.random.choice(["ok", "declined"]))
        elif self.chance(0.2):
            checkout.save_card(self.books, customer, behavior)
        else:
            customers.attach_card(self.books, customer, behavior, default=self.chance(0.8))
        return True

    def renew_card(self) -> bool:
        card = self.pick([one for one in self.of("payment_method") if one["type"] == "card"])
        if card is not None:
            customers.renew_card(self.books, card)
        return card is not None

    def detach_card(self) -> bool:
        card = self.pick(self.of("payment_method"))
        if card is not None:
            customers.detach(self.books, card)
        return card is not None

    def give_subscription_own_card(self) -> bool:
        subscription = self.subscription()
        cards = [
            one for one in self.of("payment_method") if subscription and one["customer"] == subscription["customer"]
        ]
        card = self.pick(cards)
        if subscription is None or card is None:
            return False
        with self.books.change(subscription):
            subscription["default_payment_method"] = card["id"]
        return True

    def delete_customer(self) -> bool:
        customer = self.customer()
        if customer is None or self.chance(0.7):
            return False
        customers.delete_customer(self.books, customer, lambda books, one: endings.end(books, one))
        return True

    # -- invoices ------------------------------------------------------------------------------------------------

    def pay_open_invoice(self) -> bool:
        """On the hosted page, out of band, or in two parts; any open one, not only the latest."""
        invoice = self.pick([one for one in self.of("invoice", "open", "uncollectible") if one["amount_remaining"] > 0])
        if invoice is None or customers.is_deleted(self.books, invoice["customer"]):
            return False
        customer = self.books.get("customer", invoice["customer"])
        if self.chance(0.2):
            collection.pay_out_of_band(self.books, invoice)
            return True
        card = customers.attach_card(self.books, customer, self.random.choice(["ok", "ok", "declined"]), default=False)
        if self.chance(0.2) and invoice["amount_remaining"] > 1:
            collection.pay_part(self.books, invoice, invoice["amount_remaining"] // 2, card)
        else:
            collection.attempt(self.books, invoice, card)
        return True

    def close_invoice(self) -> bool:
        invoice = self.pick(self.of("invoice", "open", "draft"))
        if invoice is None:
            return False
        if invoice["status"] == "draft":
            invoices.delete_draft(self.books, invoice)
        elif self.chance():
            invoices.void(self.books, invoice)
        else:
            invoices.mark_uncollectible(self.books, invoice)
        return True

    def bill_by_hand(self) -> bool:
        """An invoice without a subscription."""
        customer = self.customer()
        if customer is None:
            return False
        currency = customer["currency"] or "eur"
        line = invoices.line(self.books, 15_000, currency, (self.books.now, self.books.now))
        invoice = invoices.create_draft(self.books, customer, [line], invoices.MANUAL, currency=currency)
        invoices.finalize(self.books, invoice)
        collection.collect(self.books, invoice)
        return True

    def give_credit(self) -> bool:
        """Credit on the balance, or a credit note for an invoice."""
        customer = self.customer()
        invoice = self.pick([one for one in self.of("invoice", "open") if one["amount_remaining"] > 1])
        if invoice is not None:
            amount = invoice["amount_remaining"] if self.chance(0.3) else invoice["amount_remaining"] // 2
            credits.credit_open_invoice(self.books, invoice, amount)
            return True
        if customer is None:
            return False
        customers.add_to_balance(self.books, customer, -self.random.choice([500, 5000]))
        return True

    # -- money back ----------------------------------------------------------------------------------------------

    def refund(self) -> bool:
        charge = self.pick(self.charges())
        if charge is None:
            return False
        left = refundable(charge)
        amount = left if self.chance(0.4) else max(1, left // 3)
        paid = [one for one in self.of("invoice", "paid") if one["_charge"] == charge["id"]]
        if paid and amount > 1 and self.chance(0.2) and not customers.is_deleted(self.books, paid[0]["customer"]):
            credits.credit_paid_invoice(self.books, paid[0], amount, amount // 2, charge)
        else:
            refund(self.books, charge, amount, self.random.choice(["succeeded", "succeeded", "pending", "failed"]))
        return True

    def dispute(self) -> bool:
        charge = self.pick(self.charges())
        if charge is None:
            return False
        disputes.open_dispute(self.books, charge, inquiry=self.chance(0.4))
        if self.chance(0.3):
            subscription = self.subscription()
            if subscription is not None:
                endings.end(self.books, subscription, "payment_disputed")
        return True

    def go_on_with_dispute(self) -> bool:
        mine = {charge["id"] for charge in self.of("charge")}
        found = [one for one in self.books.all("dispute") if disputes.is_open(one) and one["charge"] in mine]
        dispute = self.pick(found)
        if dispute is None:
            return False
        is_inquiry = dispute["status"].startswith("warning_")
        match self.random.choice(["answer", "escalate", "won", "lost"]):
            case "answer" if not dispute["evidence_details"]["has_evidence"]:
                disputes.answer(self.books, dispute)
            case "escalate" if is_inquiry:
                disputes.escalate(self.books, dispute)
            case "won":
                disputes.close(self.books, dispute, "won")
            case "lost":
                disputes.close(self.books, dispute, "lost")
            case _:
                return False
        return True
