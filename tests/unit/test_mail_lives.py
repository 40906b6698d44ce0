"""The mails that leave at the end of each life: which, and what they say. Rules, checks and composer, in memory."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta

import pytest

from local.stripe.builder import Json
from tests.field import card_mail_lives as cards
from tests.field import later_mail_lives as later
from tests.field import mail_lives as first
from tests.field import renewal_lives as renewal
from tests.field.harness import CONFIG as PLANS
from tests.field.mail_lives import MailLife
from tests.kits.paymentkit import PatientWorld
from tests.kits.rulekit import DAY, NOW
from tests.kits.truthkit import MAIL, post

CONFIG = PLANS.model_copy(update={"mail": MAIL})
ORDERS = 8
LIVES = [
    *renewal.renewals(),
    *renewal.differing(),
    *first.trials(),
    *first.starts(),
    *later.dunning(),
    *later.ends(),
    *later.plan_changes(),
    *cards.cards(),
    *cards.receipts(),
]


def orders(life: MailLife) -> list[list[Json]]:
    """The order of Stripe, then random ones in which one event comes twice."""
    chance = random.Random(life.name)
    events = list(life.events)
    return [events, *(chance.sample([*events, chance.choice(events)], len(events) + 1) for _ in range(ORDERS))]


@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.name.replace(" ", "_"))
def test_only_true_mails_leave_in_any_order(life: MailLife) -> None:
    now = NOW + life.day * DAY
    for number, order in enumerate(orders(life)):
        world = PatientWorld(CONFIG).apply(*order).fire(until=now)
        left = post(world, now, age=timedelta(days=life.age_days, hours=1))
        shown = (number, [event["id"] for event in order], left.kept)
        counts, expected = Counter(left.templates), Counter(life.sent)
        if number > 0:
            assert all(counts.pop(name, 0) <= expected.pop(name, 0) for name in life.once_late), shown
        assert counts == expected, shown
        for mail in left.sent:
            text = " ".join(f"{mail.subject}\n{mail.text} to: {mail.to}".replace("\xa0", " ").split())
            for phrase in life.says.get(mail.template, ()):
                assert phrase in text, (phrase, text, shown)
            for phrase in life.never.get(mail.template, ()):
                assert phrase not in text, (phrase, text, shown)
