"""Findings of checks, and running checks at once with a time limit for each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from ops.runtime.exit_codes import EXPECTED
from schemas.settings import Config, Settings
from sinks.stripe_api.api import ApiTrouble


class Status(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    """It works, but something is risky or switched off."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """Not checked: something that it needs is not configured."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One result. `remedy` says what to do, '' if there is nothing to do."""

    check: str
    status: Status
    text: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Situation:
    """What the checks read."""

    settings: Settings
    config: Config


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What a check returns, before it has the check's name."""

    status: Status
    text: str
    remedy: str = ""


def ok(text: str) -> CheckResult:
    return CheckResult(Status.OK, text)


def warning(text: str, remedy: str) -> CheckResult:
    return CheckResult(Status.WARNING, text, remedy)


def failed(text: str, remedy: str) -> CheckResult:
    return CheckResult(Status.FAILED, text, remedy)


def skipped(text: str, remedy: str = "") -> CheckResult:
    return CheckResult(Status.SKIPPED, text, remedy)


@dataclass(frozen=True, slots=True)
class Check:
    """One check. `remedy` is shown if it does not answer in time or ends with an error that it did not expect."""

    name: str
    run: Callable[[Situation], Awaitable[Sequence[CheckResult]]]
    remedy: str


async def run_checks(checks: Sequence[Check], situation: Situation, *, timeout_s: float) -> list[Finding]:
    """Runs all checks at once. Returns their findings in the order of `checks`; no check raises."""
    results = await asyncio.gather(*(_run(check, situation, timeout_s) for check in checks))
    return [finding for result in results for finding in result]


async def _run(check: Check, situation: Situation, timeout_s: float) -> list[Finding]:
    try:
        async with asyncio.timeout(timeout_s):
            found = await check.run(situation)
    except TimeoutError:
        found = [failed(f"no answer within {timeout_s:g} s", check.remedy)]
    except (*EXPECTED, ApiTrouble) as error:
        found = [failed(str(error), check.remedy)]
    except Exception as error:  # noqa: BLE001  # a bug in one check must not hide the results of the others
        found = [failed(f"the check itself failed: {type(error).__name__}: {error}", check.remedy)]
    return [Finding(check.name, one.status, one.text, one.remedy) for one in found]
