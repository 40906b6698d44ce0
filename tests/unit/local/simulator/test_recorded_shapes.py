"""The simulator against recorded events: what our models read and Stripe sends, the simulator sends too."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache

import orjson
import pytest

from local.stripe.builder import ApiShape
from local.stripe.simulator.company import Company
from tests.paths import RECORDED_EVENTS, ROOT

BASIL = "2025-03-31"
CLOVER_OR_OLDER = "2019"
"""Recordings from before are of shapes that the simulator does not have."""

Keys = dict[tuple[str, ApiShape], set[str]]

UNSIMULATED = {
    "subscription": {"discount", "default_source"},  # `discounts` since 2025, as ids; cards are payment methods
    "invoice": {"payments", "customer_address"},  # expanded ones; customers have no address
    "customer": {"deleted", "object", "sources", "subscriptions"},
    "charge": {"application", "transfer", "refunds", "review", "source_transfer"},
    "payment_method": {"link", "us_bank_account", "cashapp"},
    "payment_intent": {"charges", "application", "review", "receipt_email"},
    "dispute": {"network_reason_code"},
    "credit_note": {"voided_at"},
}
"""Fields that a model may read and that the simulator leaves out on purpose."""


@cache
def read_names(kind: str) -> frozenset[str]:
    """Every name that the models of this kind of object read: their fields and the texts in their modules."""
    names: set[str] = set()
    for module in (ROOT / "schemas/stripe").glob(f"*{kind.replace('.', '_')}.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add(node.target.id)
    return frozenset(names)


@cache
def simulated() -> Keys:
    company = Company(60, 12, 5, 1_790_000_000)
    found: Keys = defaultdict(set)
    for event in company.run():
        for shape in ApiShape:
            obj = event.render(shape)["data"]["object"]
            found[obj["object"], shape] |= obj.keys()
    return found


def recorded() -> Keys:
    found: Keys = defaultdict(set)
    for path in sorted(RECORDED_EVENTS.glob("*/*.json")):
        event = orjson.loads(path.read_bytes())
        version, obj = event.get("api_version") or "", event.get("data", {}).get("object")
        if not isinstance(obj, dict) or version < CLOVER_OR_OLDER or obj.get("deleted"):
            continue
        found[obj.get("object", ""), ApiShape.NEW if version >= BASIL else ApiShape.OLD] |= obj.keys()
    return found


@pytest.mark.parametrize("shape", list(ApiShape))
@pytest.mark.parametrize(
    "kind",
    ["customer", "subscription", "invoice", "charge", "payment_intent", "refund", "dispute", "payment_method",
     "checkout.session", "invoice_payment", "credit_note"],
)  # fmt: skip
def test_the_simulator_sends_what_our_models_read(kind: str, shape: ApiShape) -> None:
    if not RECORDED_EVENTS.is_dir():
        pytest.skip("the recorded events are not next to this checkout (../shared/events)")
    read = recorded()[kind, shape] & read_names(kind)
    assert read - simulated()[kind, shape] - UNSIMULATED.get(kind, set()) == set()


def test_no_key_of_the_simulators_own_leaves_it() -> None:
    assert [name for names in simulated().values() for name in names if name.startswith("_")] == []
