"""What the ledger keeps of an event's JSON (trust T1 and T24)."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from streams.payload import as_stored, without_person

WAITING: dict[str, Any] = {
    "id": "evt_1",
    "object": "event",
    "type": "charge.refunded",
    "created": 1_790_000_000,
    "data": {
        "object": {
            "id": "ch_1",
            "object": "charge",
            "amount": 2900,
            "currency": "eur",
            "customer": "cus_1",
            "payment_intent": {"id": "pi_1", "status": "succeeded"},
            "refunds": {"data": [{"id": "re_1", "amount": 2900}]},
            "receipt_url": "https://pay.stripe.com/receipts/payment/CAcaFw?s=ap",
        },
        "previous_attributes": {"amount_refunded": 0},
    },
}
PERSON = "Kim Guest"


def objects(payload: str) -> Any:
    return json.loads(payload)["data"]["object"]


def test_T24_what_a_rule_reads_again_is_kept() -> None:
    assert json.loads(without_person(orjson.dumps(WAITING))) == WAITING


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *(("name", PERSON), ("billing_details", {"name": PERSON}), ("metadata", {"note": PERSON})),
        *(("collected_information", {"individual_name": PERSON}), ("customer_details", {"business_name": "Kim"})),
        *(("custom_fields", [{"text": {"value": PERSON}}]), ("client_reference_id", "kim")),
        *(("ip_address", "203.0.113.9"), ("online", {"user_agent": f"Mozilla ({PERSON})"})),
        *(("a_field_of_next_year", PERSON), ("another", [[{"x": "kim@example.com"}]]), ("third", "Köln")),
        *(("phone_of_tomorrow", "+49 151 1234567"), ("street", "Main St. 5")),
    ],
)
def test_T24_no_field_names_the_person_also_one_that_stripe_adds(name: str, given: Any) -> None:
    event = WAITING | {"data": {"object": WAITING["data"]["object"] | {"nested": [{name: given}]}}}
    kept = without_person(orjson.dumps(event))
    assert "im" not in json.dumps(objects(kept)["nested"])
    assert not any(text in kept for text in ("203.0", "151", "Main", "ln"))
    assert objects(kept)["id"] == "ch_1"


def test_T24_depth_and_huge_numbers_are_no_obstacle() -> None:
    deep = b'{"data":{"object":{"n":123456789012345678,"x":' + b"[" * 1000 + b'"Kim Guest"' + b"]" * 1000 + b"}}}"
    kept = without_person(deep)
    assert "Kim" not in kept
    assert "123456789012345678" in kept


@pytest.mark.parametrize("number", ["1e-5000", "1E-16383", "-0.5e-99999999", "1e-00016000"])
def test_T1_a_number_that_postgres_writes_with_thousands_of_zeros_is_stored_as_zero(number: str) -> None:
    stored = as_stored(f'{{"id":"evt_1","x":[{number},1e-300,2900,"a-1e-16000"]}}'.encode())
    zero, small, amount, text = json.loads(stored)["x"]
    assert (abs(zero), small, amount, text) == (0, 1e-300, 2900, "a-1e-16000")
    assert "e-5000" not in stored
    assert "e-99999999" not in stored


def test_any_other_payload_is_stored_as_received() -> None:
    given = b'{ "id": "evt_1", "x": [1.10, 1e-7, 123456789012345678901234567890] }'
    assert as_stored(given) == given.decode()
