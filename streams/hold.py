"""Keeps a worker waiting while the brake holds."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import structlog

from schemas.errors import StoreUnavailable
from schemas.settings import Settings
from schemas.timing import pause
from sinks.postgres.brakes import Brakes
from streams.brake import BrakeTripped, Limits

log = structlog.get_logger(__name__)

_POLL_S = 2.0


def limits_of(settings: Settings) -> Limits:
    return Limits(
        window=settings.brake_window,
        least=settings.brake_least,
        ratio=settings.brake_ratio,
        run=settings.brake_run,
    )


@dataclass(slots=True, kw_only=True)
class BrakeGate:
    """Waits for the brake's release and stores a trip. `reason` explains in /readyz why nothing is applied."""

    brakes: Brakes
    group: str
    code_version: str
    reason: str | None = "the brake has not been checked yet"

    async def until_released(self, stopping: asyncio.Event) -> int:
        """Waits while the brake holds for this code version, through outages of Postgres too.

        Returns how many dead events an operator has allowed.
        """
        is_logged = False
        while not stopping.is_set():
            try:
                held = await self.brakes.last(self.group)
                if held is None or not held.holds(self.code_version):
                    if held is not None and held.released_at is None:
                        await self.brakes.pass_by(self.group, self.code_version)
                    allowed = await self.brakes.take_allowance(self.group) if held is not None else 0
                    self.reason = None
                    return allowed
            except StoreUnavailable as error:
                self.reason = f"cannot read the brake: {error}"
            else:
                self.reason = _explained(held.message, held.reasons)
                if not is_logged:
                    log.error("worker.held", action="worker.held", group=self.group, reason=self.reason)
                    is_logged = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _POLL_S)
        return 0

    async def write_down(self, tripped: BrakeTripped) -> None:
        """Retries until Postgres has stored the trip, because a restarted worker must be held, too."""
        self.reason = _explained(str(tripped), tripped.reasons)
        log.critical("worker.brake", action="worker.brake", group=self.group, reason=self.reason)
        number = 0
        while True:
            try:
                await self.brakes.trip(self.group, str(tripped), tripped.reasons, self.code_version)
            except StoreUnavailable as error:
                number += 1
                log.warning("worker.brake_retry", action="worker.brake_retry", error=str(error), attempt=number)
                await asyncio.sleep(pause(number))
            else:
                return


def _explained(message: str, reasons: tuple[str, ...]) -> str:
    sample = f" ({'; '.join(reasons)})" if reasons else ""
    return (
        f"the brake holds: {message}{sample}. Deploy a fixed version, or run `billing brake release`; "
        "then `billing dead replay`"
    )
