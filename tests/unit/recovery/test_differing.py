"""`billing diff` compares what a rebuild decides, and not what the dispatcher has filled in."""

from __future__ import annotations

from recovery.rebuild.comparison import differing


def test_a_mail_that_was_sent_has_the_address_of_that_time() -> None:
    """The customer's address may have changed between the event and the delivery, for example after a restore."""
    names = ["recipient", "template"]
    rebuilt = {"status": "queued", "recipient": "old@example.com", "template": "receipt"}
    assert differing(names, rebuilt | {"status": "sent", "recipient": "new@example.com"}, rebuilt) == {}
    assert differing(names, rebuilt | {"recipient": "x@example.com"}, rebuilt | {"recipient": None}) == {}
    assert differing(names, rebuilt | {"status": "withheld", "recipient": "x@example.com"}, rebuilt) == {
        "recipient": ("x@example.com", "old@example.com")
    }
    assert differing(names, rebuilt | {"status": "sent", "template": "welcome"}, rebuilt) == {
        "template": ("welcome", "receipt")
    }
