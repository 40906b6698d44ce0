"""Every event type with a rule occurs in a generated history, so that every order of its arrival is tried."""

from __future__ import annotations

import ast
import random
from functools import cache

from local.stripe.events import EXAMPLES
from local.stripe.simulator.lives import Life, random_steps
from local.stripe.simulator.stripe import SimulatedStripe
from tests.kits.lifekit import START
from tests.paths import ROOT

LIVES = 120
STORIES = ("test_histories.py", "test_payment_histories.py")

ALONE = {
    "account.application.authorized": "changes no row",
    "account.application.deauthorized": "only mails the operators",
    "account.updated": "only mails the operators",
    "payout.failed": "only mails the operators",
    "radar.early_fraud_warning.created": "only mails the operators",
    "customer.source.deleted": "cards of the older Sources API: test_payment_methods.py",
    "customer.source.expiring": "cards of the older Sources API: test_payment_methods.py",
    "customer.source.updated": "cards of the older Sources API: test_payment_methods.py",
    "credit_note.updated": "in every order with its invoice in test_payment_links.py",
    "credit_note.voided": "in every order with its invoice in test_payment_links.py",
    "customer.subscription.pending_update_expired": "has the subscription as it was: test_subscriptions.py",
    "invoice.finalization_failed": "only mails the operators",
}
"""Types in no history, and why. An entry that has become needless fails here, too."""


@cache
def types_in_histories() -> frozenset[str]:
    """The types that the simulated Stripe sends in random lives, and those that the stories of the rule tests send."""
    found: set[str] = set()
    for seed in range(LIVES):
        stripe = SimulatedStripe(START)
        Life(stripe, stripe.books).live(random_steps(random.Random(seed), 15))
        found |= {event.type for event in stripe.events()}
    for name in STORIES:
        tree = ast.parse((ROOT / "tests" / "unit" / "streams" / "rules" / name).read_text())
        constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
        found |= {value for value in constants if isinstance(value, str)}
    return frozenset(found & EXAMPLES.keys())


def test_each_type_with_an_example_occurs_in_a_history() -> None:
    missing = EXAMPLES.keys() - types_in_histories() - ALONE.keys()
    assert missing == set(), "add them to a story of tests/unit/streams/rules, or to the simulator's steps"


def test_each_exception_is_needed() -> None:
    assert ALONE.keys() <= EXAMPLES.keys()
    assert ALONE.keys() & types_in_histories() == set()
