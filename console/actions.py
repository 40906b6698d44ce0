"""Actions with their own result page: a form is confirmed once, whatever its number of clicks, and leaves a record."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any

import structlog
from pydantic import SecretStr

from console.errors import Refused
from console.identity import Person
from schemas.errors import BillingError, ServiceUnavailable
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.console_actions import ConsoleActions, Job, Performed

log = structlog.get_logger(__name__)

Work = Callable[[], Awaitable[Mapping[str, Any]]]
"""Returns what the result page shows. `changed` is the number of rows."""

LONGEST_S = 120.0
"""Seconds that the work of an action may take."""

_RETRY_S = 3.0
_STORED_WITHIN_S = 300.0
"""Seconds for which a result that Postgres did not take is offered again."""

_WAIT_S = 5.0
"""Seconds for which the browser waits for the result to be stored."""

_LOST_AFTER = timedelta(seconds=LONGEST_S + _STORED_WITHIN_S + 60.0)
"""Age of an open record whose process must have died."""

_KEY = re.compile(r"[A-Za-z0-9_-]{16,64}")


def check_key(key: str) -> str:
    """Returns the key of a form. Raises Refused if it was not made by a form of this console: it is part of a path."""
    if _KEY.fullmatch(key) is None:
        raise Refused("The form is incomplete: open it again.")
    return key


class Actions:
    """Performs actions and reads their records. Methods raise StoreUnavailable."""

    def __init__(self, url: SecretStr) -> None:
        self.records = ConsoleActions(url)
        self._ending: set[asyncio.Task[None]] = set()

    async def perform(
        self,
        key: str,
        person: Person,
        action: str,
        work: Work,
        *,
        target: str = "",
        filter: Mapping[str, Any] | None = None,
        reason: str | None = None,
        peer: str | None = None,
        begun: Callable[[], int | None] = lambda: None,
    ) -> str:
        """Performs `work` once for this key and stores its result. Returns the path of the result page. Raises Refused.

        The record is written before the work, so that work which a crash interrupted is visible as running. An expected
        error becomes the result; a bug is raised, and the record keeps that it failed. The work writes its own row of
        the audit log in its transaction; a failure is written here. `begun` returns the id of the row that the work has
        begun itself, if it has: a failure completes that one.
        """
        entry = AuditEntry(
            who=person.who, role=person.role.label, action=f"console.{action}", target=target, filter=filter or {},
            reason=reason, peer=peer,
        )  # fmt: skip
        if await self.records.begin(check_key(key), entry):

            async def fail(note: str) -> None:
                row = begun()
                await self._end(key, lambda: self.records.fail(key, entry, note, row))

            try:
                async with asyncio.timeout(LONGEST_S):
                    result = await work()
            except TimeoutError:
                note = f"no answer within {LONGEST_S:.0f} s, so the result is not known: see the audit log"
                await fail(note)
            except (BillingError, ServiceUnavailable) as error:
                await fail(str(error) or type(error).__name__)
            except BaseException as error:
                await fail(f"unexpected: {type(error).__name__}")
                raise
            else:
                await self._end(key, lambda: self.records.end(key, "done", result))
        return f"/jobs/{key}"

    async def ask(self, key: str, entry: AuditEntry) -> str:
        """Asks the scheduler for a job, once for this key. Returns the path of its page.

        Raises Refused, and OpenJob if a job with the same target is open.
        """
        await self.records.begin(check_key(key), entry, job=Job(None, None), is_only=True)
        return f"/jobs/{key}"

    async def find(self, key: str) -> Performed | None:
        """Returns the record of one action."""
        return await self.records.find(key)

    async def end_lost(self) -> int:
        """Ends the records of actions whose process died: what they did is not known. Returns how many."""
        return await self.records.end_lost(_LOST_AFTER, "the result is not known: see the audit log")

    async def close(self) -> None:
        """Stops offering results to a Postgres that does not take them."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _end(self, key: str, store: Callable[[], Awaitable[None]]) -> None:
        """Stores how the action ended; after a while in the background, so that the browser need not wait."""
        task = asyncio.create_task(self._stored(key, store))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        await asyncio.wait({task}, timeout=_WAIT_S)

    async def _stored(self, key: str, store: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + _STORED_WITHIN_S
        while loop.time() < ends_at:
            try:
                await store()
            except (BillingError, ServiceUnavailable) as error:
                log.warning("console.action_retry", action="console.action_retry", key=key, error=str(error))
                await asyncio.sleep(_RETRY_S)
            else:
                return
