"""Makes one claimed call to Stripe and returns the result as a verdict, which the loop stores.

    try        1     2     3     4      5      6       7      8        9
    before it  at    2 s   8 s   32 s   2 min  8½ min  34 min 2 h 17   9 h 06
    since 1st  0     2 s   10 s  42 s   3 min  11 min  45 min 3 h 02   12 h 08

All tries happen within the 24 hours for which Stripe remembers an idempotency key, so no try repeats the effect of an
earlier one. https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from eventlog.append import EventAppender
from eventlog.entry import Entry
from schemas.errors import LogUnavailable
from schemas.rate import RateLimit
from schemas.record import Source
from schemas.refetch import NoEventForObject, refetched_event
from schemas.settings import Mode
from schemas.timing import Timetable
from sinks.outbox.verdicts import Done, Failed, NotTried, RetryAt, RowRefused, Verdict
from sinks.stripe_api.api import ApiResponse, NoAnswer, Refusal, Request, StripeApi, Unreachable
from sinks.stripe_calls.calls import QueuedCall

log = structlog.get_logger(__name__)

TRIES = 9
TIMETABLE = Timetable(first=timedelta(seconds=2), factor=4, tries=TRIES)
TOO_LATE = timedelta(hours=23)
"""A POST that was tried before is not retried this long after it was queued: Stripe may have forgotten its key."""
_MARK_S = 60.0
"""Seconds of the claim reserved after the call, to append the response to the log and to store the result."""

_PATH = re.compile(r"/v[12](?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")


class Caller:
    """Calls Stripe, and appends the response to a GET to the log. For concurrent use."""

    def __init__(
        self,
        api: StripeApi,
        rate: RateLimit,
        event_log: EventAppender,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._rate = rate
        self._event_log = event_log
        self._appending = asyncio.Lock()
        self._chance = chance

    @property
    def address(self) -> str:
        """Stripe's address, shown during an outage."""
        return self._api.base

    async def make(self, call: QueuedCall) -> Verdict:
        """Make the call and return the verdict. Faults of the call, Stripe or Kafka do not raise."""
        if (reason := self._objection(call)) is not None:
            return Failed(reason)
        await self._rate.take()
        if time.monotonic() + self._api.total_s + _MARK_S > call.deadline:
            return NotTried()  # the claim could expire during the call
        try:
            answer = await self._api.call(
                Request(
                    method=call.method,
                    path=call.path,
                    account=call.account,
                    # Stripe ignores the key of a GET and asks clients not to send one.
                    idempotency_key=call.key if call.method == "POST" else None,
                    params=call.params,
                )
            )
        except Unreachable as error:
            return NotTried(str(error))
        except NoAnswer as error:
            return self._later(call, str(error))
        except Refusal as error:
            return self._refused(call, error)
        except Exception as error:
            # A bug triggered by this call's parameters. The call fails, which an operator sees; others continue.
            log.exception("a call cannot be made", action="stripe.call_impossible", key=call.key)
            return Failed(f"cannot be made: {type(error).__name__}")
        if call.method == "POST":
            return _done(call, answer)
        return await self._take_in(call, answer)

    def _objection(self, call: QueuedCall) -> str | None:
        """Return why this call must not be sent to Stripe, or None."""
        if call.livemode is not self._api.mode.livemode:
            mode = Mode.LIVE if call.livemode else Mode.TEST
            return f"the event is in {mode} mode, BILLING_STRIPE_API_KEY is in {self._api.mode} mode"
        if call.method not in ("GET", "POST") or _PATH.fullmatch(call.path) is None:
            return f"not a Stripe API call: {call.method:.10} {call.path:.100}"
        if call.attempts > TRIES:
            return (
                f"{TRIES} tries are used up, and the last one has no result: dispatcher or Postgres stopped meanwhile"
            )
        if call.method == "POST" and call.attempts > 1 and call.age > TOO_LATE:
            return (
                f"queued {call.age // timedelta(hours=1)} hours ago and tried: Stripe may have executed it, but "
                "no longer knows its idempotency key"
            )
        return None

    def _refused(self, call: QueuedCall, error: Refusal) -> Verdict:
        match error.status:
            case 429 if error.code != "lock_timeout":  # lock_timeout concerns one object, other 429s all calls
                return NotTried(str(error), error.retry_after)
            case 403 if call.account and error.code == "account_invalid":
                return Failed(str(error))  # this account disconnected; other calls can continue
            case 401 | 403:  # the key has lost a right, or this one object may not be used
                later = self._later(call, str(error))
                group = resource_of(call.path)
                return RowRefused(reason=str(error), subject=call.path, verdict=later, later=later, group=group)
            case 409 | 429:
                return self._later(call, str(error), error.retry_after)
        if error.status >= 500 or error.should_retry:
            return self._later(call, str(error), error.retry_after)
        return Failed(str(error))

    def _later(self, call: QueuedCall, reason: str, at_least: timedelta = timedelta(0)) -> RetryAt | Failed:
        pause = TIMETABLE.pause_after(call.attempts, self._chance())
        if pause is None:
            return Failed(f"after {call.attempts} tries: {reason}")
        return RetryAt(max(pause, at_least), reason)

    async def _take_in(self, call: QueuedCall, answer: ApiResponse) -> Verdict:
        if call.event_created is not None and answer.as_of <= call.event_created:
            # `created` has whole seconds, so a response of the event's own second may be older than the event.
            return self._later(call, "the response is not newer than the event that ordered the call")
        try:
            entry, event_id = answer_entry(call, answer, call.now)
        except NoEventForObject as error:
            return Failed(str(error))
        try:
            async with self._appending:
                await self._event_log.append([entry])
        except LogUnavailable as error:
            return NotTried(str(error))
        return _done(call, answer, event_id)


def resource_of(path: str) -> str:
    """Returns the resource of a path: a restricted key has each right for one (`/v1/charges/ch_1`: charges)."""
    return path.split("/")[2]


def _done(call: QueuedCall, answer: ApiResponse, event_id: str | None = None) -> Done:
    """`event_id` is the id of the event on the log that holds the response to a GET."""
    details = {"request_id": answer.request_id, "answer_event_id": event_id}
    return Done(details=details, group=resource_of(call.path))


def answer_entry(call: QueuedCall, answer: ApiResponse, now: datetime) -> tuple[Entry, str]:
    """Return the log entry of a GET's response, with the ordering key of its customer's events, and the event's id.

    Raises NoEventForObject.
    """
    event = refetched_event(
        call.key,
        answer.body,
        at=answer.as_of,
        account=call.account,
        livemode=call.livemode,
        api_version=answer.api_version,
        request_id=answer.request_id,
    )
    entry = Entry.of(
        event,
        source=Source.RECONCILE,
        received_at=now,
        livemode=call.livemode,
        account=call.account,
        api_version=answer.api_version,
    )
    return entry, event["id"]
