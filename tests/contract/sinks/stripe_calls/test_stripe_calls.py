"""C7, D2, D4: each queued call has its effect at Stripe once, whatever fails."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from sinks.outbox.pace import LoopPace
from sinks.outbox.wakeup import listen
from sinks.postgres.outboxes import STRIPE_CALLS
from sinks.stripe_calls.caller import TRIES
from sinks.stripe_calls.calls import Calls
from sinks.stripe_calls.dispatcher import CallDispatcher
from sinks.stripe_calls.metrics import CallMetrics
from tests.kits.stripekit import (
    LIVE_KEY,
    QUICK,
    TEST_KEY,
    CallOutboxKit,
    FakeStripeServer,
    StripeFault,
)
from tests.waiting import eventually


async def test_a_default_payment_method_is_set_once(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """With the key of the row, its account, and Stripe's form of nested parameters."""
    await desk.queue("a", account="acct_7")
    async with desk.dispatcher():
        row = await desk.until("a", status="done")
        desk.clock.move(days=2)
        await desk.queue("b")
        await desk.until("b", status="done")
    assert [(seen.idempotency_key, seen.account) for seen in stripe.requests] == [("a", "acct_7"), ("b", None)]
    assert stripe.requests[0].path == "/v1/customers/cus_a"
    assert stripe.requests[0].form == {"invoice_settings[default_payment_method]": "pm_a"}
    assert abs(row["done_at"] - (desk.clock.now - timedelta(days=2))) < timedelta(seconds=5)
    assert (row["attempts"], row["claimed_by"], row["last_error"]) == (1, None, None)


async def test_two_dispatchers_call_once_per_key(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    for number in range(40):
        await desk.queue(f"c{number:02d}")
    async with desk.dispatcher(claimer="one"), desk.dispatcher(claimer="two"):
        await desk.until_all("done")
    assert Counter(seen.idempotency_key for seen in stripe.requests) == {f"c{number:02d}": 1 for number in range(40)}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (StripeFault.SERVER_ERROR, "HTTP 500 api_error: No good: SERVER_ERROR, [key]"),
        (StripeFault.IN_USE, "HTTP 409 idempotency_key_in_use: No good: IN_USE, [key]"),
        (StripeFault.BAD_GATEWAY, "HTTP 502 without a Stripe error object"),
        (StripeFault.HANG, "no response within 0.3 s"),
        (StripeFault.DROP, "the connection broke: ServerDisconnectedError"),
    ],
)
async def test_transient_errors_are_retried(
    desk: CallOutboxKit, stripe: FakeStripeServer, fault: StripeFault, reason: str
) -> None:
    """Not before its pause, with the same idempotency key, and then it is done."""
    stripe.fail_next(fault)
    await desk.queue("a")
    async with desk.dispatcher(total_s=0.3):
        row = await desk.until("a", status="queued", attempts=1)
        assert row["last_error"] == reason
        assert abs(row["next_attempt_at"] - desk.clock.now - timedelta(seconds=2)) < timedelta(seconds=1)
        await desk.queue("b")  # a due call: once it is done, the dispatcher has checked the queue
        await desk.until("b", status="done")
        assert (await desk.row("a"))["status"] == "queued"
        desk.clock.move(seconds=3)
        await desk.until("a", status="done", attempts=2)
    assert [seen.idempotency_key for seen in stripe.requests] == ["a", "b", "a"]
    assert len(stripe.done) == 2


async def test_after_the_last_try_a_call_has_failed(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """Within half a day, because Stripe keeps an idempotency key for at least one day."""
    stripe.fail_next(StripeFault.SERVER_ERROR, times=TRIES)
    await desk.queue("a")
    began = desk.clock.now
    async with desk.dispatcher():
        for attempt in range(1, TRIES):
            row = await desk.until("a", status="queued", attempts=attempt)
            desk.clock.now = row["next_attempt_at"] + timedelta(seconds=1)
        row = await desk.until("a", status="failed")
    assert row["last_error"].startswith(f"after {TRIES} tries: HTTP 500")
    assert timedelta(hours=12) < desk.clock.now - began < timedelta(hours=13)


async def test_a_rate_limit_pauses_all_calls_for_as_long_as_stripe_says(
    desk: CallOutboxKit, stripe: FakeStripeServer
) -> None:
    """Retry-After: 7. No call loses a try for it."""
    stripe.fail_next(StripeFault.RATE_LIMIT)
    await desk.queue("a")
    async with desk.dispatcher(lanes=1) as running:
        await eventually(lambda: running.trouble() is not None)
        await desk.queue("b")
        desk.clock.move(seconds=6)
        looked = len(stripe.requests)
        await _a_few_passes(running)
        assert len(stripe.requests) == looked == 1
        desk.clock.move(seconds=2)
        await desk.until_all("done")
        assert running.trouble() is None
    assert [(await desk.row(key))["attempts"] for key in ("a", "b")] == [1, 1]


async def test_a_refused_call_fails_with_the_message_of_stripe(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """400 is permanent. Other calls continue, and an operator may requeue it."""
    stripe.fail_next(StripeFault.BAD_REQUEST)
    await desk.queue("a")
    async with desk.dispatcher():
        row = await desk.until("a", status="failed")
        await desk.queue("b")
        await desk.until("b", status="done")
        operator = await Calls.connect(desk.url, claimer="operator", ahead=desk.clock.ahead)
        listed = await operator.list(status="failed", kind="set the default payment method")
        assert [entry["call_key"] for entry in listed] == ["a"]
        assert await operator.requeue(keys=["a", "b", "c"]) == ["a"]
        await operator.close()
        await desk.until("a", status="done", attempts=1)
    assert row["last_error"] == "HTTP 400 resource_missing: No good: BAD_REQUEST, [key]"


@pytest.mark.parametrize("fault", [StripeFault.UNAUTHORIZED, StripeFault.FORBIDDEN])
async def test_a_refused_key_pauses_all_calls(
    desk: CallOutboxKit, stripe: FakeStripeServer, fault: StripeFault
) -> None:
    """401, 403 for all: none fails, /readyz shows the reason, and one call at a time checks if the key works again."""
    stripe.fail_next(fault, times=9)
    for number in range(6):
        await desk.queue(f"c{number}")
    async with desk.dispatcher(lanes=1) as running:

        async def has_failed_often() -> bool:
            desk.clock.move(minutes=2)
            return len(stripe.requests) >= 9

        await eventually(has_failed_often)
        await eventually(lambda: running.trouble() is not None)
        assert fault.name.lower() in (running.trouble() or "")
        assert TEST_KEY not in (running.trouble() or "")
        assert "failed" not in (await desk.statuses()).values()

        async def are_done() -> bool:
            desk.clock.move(minutes=2)  # one more refusal may start a pause at this time
            return set((await desk.statuses()).values()) == {"done"}

        await eventually(are_done)
        assert running.trouble() is None
    assert [(await desk.row(f"c{number}"))["attempts"] for number in range(6)] == [1] * 6


async def test_a_disconnected_account_pauses_no_other_account(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    stripe.fail_next(StripeFault.ACCOUNT_GONE)
    await desk.queue("a", account="acct_gone")
    async with desk.dispatcher() as running:
        row = await desk.until("a", status="failed")
        assert running.trouble() is None
    assert "account_invalid" in row["last_error"]


async def test_an_unreachable_stripe_costs_no_call_a_try(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    await stripe.stop()
    await desk.queue("a")
    async with desk.dispatcher() as running:
        await eventually(lambda: "cannot be reached" in (running.trouble() or ""))
        await stripe.start()

        async def is_done() -> bool:
            desk.clock.move(minutes=2)
            return (await desk.statuses())["a"] == "done"

        await eventually(is_done)
    assert (await desk.row("a"))["attempts"] == 1


@pytest.mark.parametrize(
    ("key", "livemode", "reason"),
    [
        (TEST_KEY, True, "the event is in live mode, BILLING_STRIPE_API_KEY is in test mode"),
        (LIVE_KEY, False, "the event is in test mode, BILLING_STRIPE_API_KEY is in live mode"),
    ],
)
async def test_a_key_of_the_wrong_mode_is_never_sent(
    desk: CallOutboxKit, stripe: FakeStripeServer, key: str, livemode: bool, reason: str
) -> None:
    stripe.key = key
    await desk.queue("a", livemode=livemode)
    await desk.queue("b", livemode=not livemode)
    async with desk.dispatcher(key=key):
        row = await desk.until("a", status="failed")
        await desk.until("b", status="done")
    assert row["last_error"] == reason
    assert [seen.idempotency_key for seen in stripe.requests] == ["b"]


async def test_a_path_that_leads_elsewhere_is_never_sent(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """Ids are external text; they must not select another object or host."""
    for number, path in enumerate(["/v1/customers/../charges", "//other.example/v1/x", "/v1/customers/cus_1?expand=x"]):
        await desk.queue(f"c{number}", path=path)
    async with desk.dispatcher():
        await desk.until_all("failed")
    assert stripe.requests == []


async def test_dying_between_the_call_and_its_mark_repeats_the_key(
    desk: CallOutboxKit, stripe: FakeStripeServer
) -> None:
    """Stripe made the change but the result was not stored. The next try repeats the key, and Stripe does it once."""
    await desk.queue("a")
    dying = await Calls.connect(desk.url, claimer="dying", ahead=desk.clock.ahead)
    assert [call.key for call in await dying.claim(1)] == ["a"]
    await dying.close()
    stripe.fail_next(StripeFault.DROP_AFTER)
    async with desk.dispatcher() as running:
        await _a_few_passes(running)
        assert stripe.requests == []  # the claim is still valid
        desk.clock.move(minutes=11)
        await desk.until("a", status="queued", attempts=2)
        desk.clock.move(minutes=1)
        await desk.until("a", status="done", attempts=3)
    assert [seen.idempotency_key for seen in stripe.requests] == ["a", "a"]
    assert [seen.idempotency_key for seen in stripe.done] == ["a"]


async def test_a_call_tried_before_stripe_forgot_its_key_is_not_repeated(
    desk: CallOutboxKit, stripe: FakeStripeServer
) -> None:
    """After a day of downtime the result of a first try is unknown: it is not repeated. A call never tried is sent."""
    stripe.fail_next(StripeFault.HANG)
    await desk.queue("a")
    async with desk.dispatcher(total_s=0.2):
        await desk.until("a", status="queued", attempts=1)
    await desk.queue("b")
    desk.clock.move(days=2)
    async with desk.dispatcher():
        row = await desk.until("a", status="failed")
        await desk.until("b", status="done")
    assert "tried" in row["last_error"]


async def test_one_customers_cards_are_set_in_the_order_they_came(
    desk: CallOutboxKit, stripe: FakeStripeServer
) -> None:
    """The first call is retried later; it must not overwrite the second."""
    stripe.fail_next(StripeFault.SERVER_ERROR)
    await desk.queue("z-first", customer_id="cus_1")
    async with desk.dispatcher() as running:
        await desk.until("z-first", status="queued", attempts=1)
        await desk.queue("a-second", customer_id="cus_1", queued_at=desk.clock.now + timedelta(milliseconds=1))
        await desk.queue("other", customer_id="cus_2")
        await desk.until("other", status="done")
        await _a_few_passes(running)
        desk.clock.move(seconds=3)
        await desk.until_all("done")
    assert [seen.idempotency_key for seen in stripe.done] == ["other", "z-first", "a-second"]


async def test_a_notification_wakes_the_dispatcher(desk: CallOutboxKit, stripe: FakeStripeServer) -> None:
    """The poll interval is a minute."""
    async with desk.dispatcher(pace=LoopPace(poll_s=60.0)) as running:
        listening = asyncio.create_task(listen(desk.url, STRIPE_CALLS.channel, running.wake))
        try:
            await eventually(lambda: running.outbox_trouble() is None)
            await desk.queue("a")
            await desk.until("a", status="done")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


async def test_without_a_key_calls_stay_queued_and_are_counted(desk: CallOutboxKit) -> None:
    """This is not an error: /readyz stays ready, and a metric counts the calls."""
    await desk.queue("a")
    registry = CollectorRegistry()
    calls = await Calls.connect(desk.url, claimer="one")
    running = CallDispatcher(calls, None, CallMetrics(registry), clock=desk.clock, pace=QUICK, lanes=1)
    task = asyncio.create_task(running.run())
    await eventually(lambda: registry.get_sample_value("billing_stripe_calls_open") == 1)
    assert registry.get_sample_value("billing_stripe_calls_enabled") == 0
    assert (running.trouble(), running.outbox_trouble()) == (None, None)
    assert running.note().startswith("off")
    running.stop()
    await asyncio.wait_for(task, 30)
    await calls.close()
    assert (await desk.row("a"))["attempts"] == 0


async def test_the_key_is_shown_nowhere(
    desk: CallOutboxKit, stripe: FakeStripeServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in logs at any level and not in a row, even if Stripe's answer repeats it."""
    caplog.set_level("DEBUG")
    for fault in (
        StripeFault.BAD_REQUEST,
        StripeFault.UNAUTHORIZED,
        StripeFault.SERVER_ERROR,
        StripeFault.HANG,
        StripeFault.BAD_GATEWAY,
    ):
        stripe.fail_next(fault)
    await desk.queue("a")
    async with desk.dispatcher(lanes=1, total_s=0.2):
        await desk.until("a", status="failed")
        await desk.queue("b")

        async def is_done() -> bool:
            desk.clock.move(minutes=2)
            return (await desk.statuses())["b"] == "done"

        await eventually(is_done)
    output = capsys.readouterr()
    rows: list[Any] = [await desk.row("a"), await desk.row("b")]
    assert "stripe.call_failed" in output.out + output.err
    for text in (caplog.text, output.out, output.err, repr(rows), repr(stripe.requests[0].form)):
        assert TEST_KEY not in text


async def _a_few_passes(running: CallDispatcher) -> None:
    """Wait until every lane has started and ended a pass after now."""

    async def have_begun() -> bool:
        return min(running._turns) > now

    for _ in range(2):
        now = time.monotonic()
        running.wake()
        await eventually(have_begun)


@pytest.mark.parametrize("fault", [StripeFault.UNAUTHORIZED, StripeFault.FORBIDDEN])
async def test_D8_one_refused_call_among_twenty_pauses_no_other(
    desk: CallOutboxKit, stripe: FakeStripeServer, fault: StripeFault
) -> None:
    stripe.fail_next(fault)
    for number in range(20):
        await desk.queue(f"c{number:02d}")
    async with desk.dispatcher() as running:

        async def are_done() -> bool:
            return list((await desk.statuses()).values()).count("done") >= 19

        await eventually(are_done)
        assert running.trouble() is None
        desk.clock.move(seconds=10)
        await desk.until_all("done")


async def test_D8_dispatchers_whose_clocks_differ_make_each_call_once(
    desk: CallOutboxKit, stripe: FakeStripeServer
) -> None:
    """The local clock of a dispatcher measures pauses only; claims are Postgres' own."""
    for number in range(20):
        await desk.queue(f"c{number:02d}")
    async with desk.dispatcher(claimer="one"), desk.dispatcher(claimer="two", local_clock_ahead=timedelta(days=1)):
        await desk.until_all("done")
    assert Counter(seen.idempotency_key for seen in stripe.requests) == {f"c{number:02d}": 1 for number in range(20)}
