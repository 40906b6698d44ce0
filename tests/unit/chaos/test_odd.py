"""The fuzz run's requests: complete, unsigned where they are hostile, signed where they are odd."""

from __future__ import annotations

import random
import time

from gateway.signature import SignatureVerdict, verify
from tests.chaos.odd import good_event, hostile_request, odd_event, signed

SECRET = b"whsec_ofTheDefaultEndpoint0123456789ab"


def test_odd_events_keep_their_id_and_differ() -> None:
    chance = random.Random(7)  # for a test
    bodies = {odd_event(chance, number)[1] for number in range(300)}
    assert len(bodies) == 300
    assert all(b'"id":"evt_fuzz' in body for body in bodies)


def test_no_hostile_request_has_a_valid_signature() -> None:
    chance = random.Random(7)  # for a test
    for request in {hostile_request(chance) for _ in range(500)}:
        head, _, body = request.partition(b"\r\n\r\n")
        given = [line.partition(b": ")[2] for line in head.split(b"\r\n") if line.startswith(b"Stripe-Signature")]
        for header in given:
            found = verify(body, header.decode("utf-8", "replace"), [SECRET], now=time.time())
            assert found is not SignatureVerdict.VALID


def test_a_signed_request_is_valid() -> None:
    _, body = good_event(1)
    head, _, sent = signed(body, SECRET).partition(b"\r\n\r\n")
    (header,) = [line.partition(b": ")[2].decode() for line in head.split(b"\r\n") if line.startswith(b"Stripe-S")]
    assert verify(sent, header, [SECRET], now=time.time()) is SignatureVerdict.VALID
