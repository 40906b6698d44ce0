"""Which refusals are about us: what the other side accepts meanwhile decides."""

from __future__ import annotations

from sinks.outbox.refusals import RUN, Refusals

SPAM = "554 5.7.1 looks like spam"
RELAY = "554 5.7.1 <{}>: Relay access denied"


def refuse(refusals: Refusals, count: int = RUN, *, kind: str = "win-back", domain: str | None = None) -> bool:
    """Refuse a mail to each of `count` recipients, each at a domain of its own. Returns whether it is about us."""
    found = [
        refusals.add(SPAM, f"c{n}@{domain or f'd{n}.example'}", domain or f"d{n}.example", kind) for n in range(count)
    ]
    return found[-1]


def test_D8_five_in_a_row_are_about_us() -> None:
    refusals = Refusals()
    assert not refuse(refusals, RUN - 1)
    assert refuse(refusals)
    assert refusals.kinds == {"win-back"}
    assert not refusals.add("450 another answer", "x@example.com", "example.com", "payment-receipt")


def test_D8_an_accepted_row_of_the_same_group_shows_that_it_is_not_about_us() -> None:
    refusals = Refusals()
    refuse(refusals)
    assert refusals.accepted("d3.example")
    assert not refuse(refusals, RUN - 1)
    assert refusals.is_about_the_row(SPAM, "c3@d3.example", "d3.example")
    assert not refusals.is_about_the_row(SPAM, "c2@d2.example", "d2.example")


def test_D8_a_relay_that_accepts_mails_to_our_own_domain_only_is_closed_to_us() -> None:
    """Mails to the team must neither end the pause nor make the refusals of customers' mails final."""
    refusals = Refusals()
    refuse(refusals)
    for _ in range(20):
        assert not refusals.accepted("acme.example")
    assert refuse(refusals, 1)
    assert not refusals.is_about_the_row(SPAM, "c1@d1.example", "d1.example")


def test_D8_two_other_groups_are_enough() -> None:
    refusals = Refusals()
    refuse(refusals)
    assert not refusals.accepted("one.example")
    assert refusals.accepted("two.example")
    assert refusals.is_about_the_row(SPAM, "c1@d1.example", "d1.example")


def test_D8_one_domains_refusals_end_with_an_acceptance_of_another() -> None:
    refusals = Refusals()
    assert refuse(refusals, domain="big.example")
    assert refusals.accepted("small.example")
    assert refusals.kinds == frozenset()


def test_D8_what_was_refused_before_a_restart_is_not_final() -> None:
    """Its row shows the first refusal; a new process knows nothing of what has been accepted since."""
    refusals = Refusals()
    refusals.accepted("d1.example")
    assert not refusals.add(SPAM, "c1@d1.example", "d1.example", "win-back")
    assert not refusals.is_about_the_row(SPAM, "c1@d1.example", "d1.example")


def test_D8_what_is_remembered_is_limited() -> None:
    refusals = Refusals()
    for number in range(5000):
        refusals.add(f"554 {'x' * (number % 50)}", f"c{number}@example.com", f"d{number}")
        refusals.accepted(f"d{number}")
    assert len(refusals._first) <= 2000
    assert len(refusals._accepted) <= 2000


def test_an_outbox_without_groups_ends_its_run_with_any_acceptance() -> None:
    refusals = Refusals()
    for number in range(RUN):
        refusals.add("403", f"/v1/charges/ch_{number}")
    assert refusals.accepted()
    assert refusals.is_about_the_row("403", "/v1/charges/ch_1")
