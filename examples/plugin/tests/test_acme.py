"""The plugin's own tests: each rule, and the tests that every plugin has to pass."""

from __future__ import annotations

import pytest
from acme_billing import plugin

from local.plugin_check import PluginWorld, check_plugin
from local.stripe.builder import StripeEvents
from schemas.plugin_registry import installed_for
from schemas.settings import Config

MAKE = StripeEvents()


def paid(amount: int) -> dict[str, object]:
    invoice = {**MAKE.invoice(status="paid", created=1_800_000_000), "amount_paid": amount}
    return MAKE.event("invoice.paid", invoice, 1_800_000_001)


@pytest.mark.parametrize(("amount", "mails"), [(99_999, []), (100_000, ["acme-large-payment"])])
def test_a_large_payment_is_thanked_for(amount: int, mails: list[str]) -> None:
    with installed_for(plugin):
        world = PluginWorld().apply(paid(amount))
    assert [mail.template for mail in world.mails.values()] == mails


def test_it_passes_the_tests_of_all_plugins() -> None:
    check_plugin(plugin, Config())
