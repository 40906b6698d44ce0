"""One claimed call → a verdict: what came of it at Stripe, as a value that the dispatcher acts on.

    try        1     2     3     4      5      6       7      8        9
    before it  at    2 s   8 s   32 s   2 min  8½ min  34 min 2 h 17   9 h 06
    since 1st  0     2 s   10 s  42 s   3 min  11 min  45 min 3 h 02   12 h 08

All within the day for which Stripe remembers an idempotency key: no try can do a second time what another did.
https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson
import structlog

from eventlog.append import EventAppender
from eventlog.entry import Entry
from schemas.errors import LogUnavailable
from schemas.ordering import ordering_key
from schemas.record import RecordHeaders, Source
from schemas.refetch import NoEventForObject, refetched_event
from schemas.settings import Mode
from schemas.timing import Timetable
from sinks.stripe_api.api import ApiResponse, NoAnswer, Refusal, Request, StripeApi, Unreachable
from sinks.stripe_api.rate import RateLimit
from sinks.stripe_calls.calls import QueuedCall

log = structlog.get_logger(__name__)

TRIES = 9
TIMETABLE = Timetable(first=timedelta(seconds=2), factor=4, tries=TRIES)
TOO_LATE = timedelta(hours=23)
"""A POST that was tried before is not tried again so long after it was queued: Stripe may have forgotten its key."""
_MARK_S = 60.0
"""Left of the claim after the call, for the log to take the answer and the row its mark."""

_PATH = re.compile(r"/v[12](?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)+")


@dataclass(frozen=True, slots=True)
class Done:
    """Stripe did it; of a GET, the log has the answer. `event_id` is that of the answer's event."""

    request_id: str | None
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class Later:
    """This call's own trouble; the try counts."""

    at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """For good."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotNow:
    """Trouble that every call would meet: no try, and all of them pause. Without a reason, only the claim was short."""

    reason: str | None = None
    at_least: timedelta = timedelta(0)


CallVerdict = Done | Later | Failed | NotNow


class Caller:
    """Calls Stripe, and puts what a GET brings onto the log. For concurrent use."""

    def __init__(
        self,
        api: StripeApi,
        rate: RateLimit,
        event_log: EventAppender,
        *,
        clock: Callable[[], datetime],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._api = api
        self._rate = rate
        self._event_log = event_log
        self._appending = asyncio.Lock()
        self._clock = clock
        self._chance = chance

    async def make(self, call: QueuedCall) -> CallVerdict:
        """Never raises for what can be wrong with a call, Stripe or Kafka."""
        if (reason := self._objection(call)) is not None:
            return Failed(reason)
        await self._rate.take()
        if self._clock() + timedelta(seconds=self._api.total_s + _MARK_S) > call.claimed_until:
            return NotNow()  # our claim may run out amid the call
        try:
            answer = await self._api.call(
                Request(
                    method=call.method,
                    path=call.path,
                    account=call.account,
                    # Stripe ignores the key of a GET, and asks not to be sent one.
                    idempotency_key=call.key if call.method == "POST" else None,
                    params=call.params,
                )
            )
        except Unreachable as error:
            return NotNow(str(error))
        except NoAnswer as error:
            return self._later(call, str(error))
        except Refusal as error:
            return self._refused(call, error)
        except Exception as error:
            # A bug that this call's parameters bring out: it fails, where an operator sees it, and the others go on.
            log.exception("a call cannot be made", action="stripe.call_impossible", key=call.key)
            return Failed(f"cannot be made: {type(error).__name__}")
        if call.method == "POST":
            return Done(answer.request_id)
        return await self._take_in(call, answer)

    def _objection(self, call: QueuedCall) -> str | None:
        """Why this call must never reach Stripe."""
        if call.livemode is not self._api.mode.livemode:
            mode = Mode.LIVE if call.livemode else Mode.TEST
            return f"an event of {mode} mode, and BILLING_STRIPE_API_KEY is of {self._api.mode} mode"
        if call.method not in ("GET", "POST") or _PATH.fullmatch(call.path) is None:
            return f"not a call of Stripe's API: {call.method:.10} {call.path:.100}"
        if call.attempts > TRIES:
            return f"{TRIES} tries ended without an answer: each time the dispatcher died"
        age = self._clock() - call.queued_at
        if call.method == "POST" and call.attempts > 1 and age > TOO_LATE:
            return (
                f"queued {age // timedelta(hours=1)} hours ago and tried: Stripe may have done it, and forgotten that"
            )
        return None

    def _refused(self, call: QueuedCall, error: Refusal) -> CallVerdict:
        match error.status:
            case 429 if error.code != "lock_timeout":  # that one is about the object, the others about all calls
                return NotNow(str(error), error.retry_after)
            case 403 if call.account and error.code == "account_invalid":
                return Failed(str(error))  # that account left us; the others did not
            case 401 | 403:
                return NotNow(str(error))
            case 409 | 429:
                return self._later(call, str(error), error.retry_after)
        if error.status >= 500 or error.should_retry:
            return self._later(call, str(error), error.retry_after)
        return Failed(str(error))

    def _later(self, call: QueuedCall, reason: str, at_least: timedelta = timedelta(0)) -> Later | Failed:
        pause = TIMETABLE.pause_after(call.attempts, self._chance())
        if pause is None:
            return Failed(f"after {call.attempts} tries: {reason}")
        return Later(self._clock() + max(pause, at_least), reason)

    async def _take_in(self, call: QueuedCall, answer: ApiResponse) -> CallVerdict:
        if call.event_created is not None and answer.as_of <= call.event_created:
            # Within the second in question the answer settles nothing.
            return self._later(call, "asked within the second of the event itself")
        try:
            entry, event_id = answer_entry(call, answer, self._clock())
        except NoEventForObject as error:
            return Failed(str(error))
        try:
            async with self._appending:
                await self._event_log.append([entry])
        except LogUnavailable as error:
            return NotNow(str(error))
        return Done(answer.request_id, event_id)


def answer_entry(call: QueuedCall, answer: ApiResponse, now: datetime) -> tuple[Entry, str]:
    """The record of a GET's answer, under the key of its customer's events, and its event's id.

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
    headers = RecordHeaders(
        event_id=event["id"],
        type=event["type"],
        source=Source.RECONCILE,
        account=call.account,
        livemode=call.livemode,
        api_version=answer.api_version or "",
        endpoint="",
        received_at=now.astimezone(UTC).isoformat(timespec="microseconds"),
    )
    return Entry(ordering_key(event).encode(), orjson.dumps(event), headers.encode()), event["id"]
