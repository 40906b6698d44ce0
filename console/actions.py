"""Actions with their own result page: a form is confirmed once, whatever its number of clicks, and leaves a record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import SecretStr

from console.identity import Person
from schemas.errors import BillingError, ServiceUnavailable
from sinks.postgres.console_actions import ConsoleActions, Performed

Work = Callable[[], Awaitable[Mapping[str, Any]]]
"""Returns what the result page shows. `changed` is the number of rows."""


class Actions:
    """Performs actions and reads their records. Methods raise StoreUnavailable."""

    def __init__(self, url: SecretStr) -> None:
        self.records = ConsoleActions(url)

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
    ) -> str:
        """Performs `work` once for this key and stores its result. Returns the path of the result page.

        The record is written before the work, so that work which a crash interrupted is visible as running. An expected
        error becomes the result; a bug is raised, and the record keeps that it failed.
        """
        is_first = await self.records.begin(
            key, person.who, person.role.label, action, target=target, filter=filter or {}, reason=reason, peer=peer
        )
        if is_first:
            try:
                result = await work()
            except (BillingError, ServiceUnavailable) as error:
                await self.records.end(key, "failed", {}, note=str(error) or type(error).__name__)
            except BaseException as error:
                await self.records.end(key, "failed", {}, note=f"unexpected: {type(error).__name__}")
                raise
            else:
                await self.records.end(key, "done", result)
        return f"/jobs/{key}"

    async def find(self, key: str) -> Performed | None:
        """Returns the record of one action."""
        return await self.records.find(key)
