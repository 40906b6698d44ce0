"""`billing worker` on the notes stream that kills itself at a named point: `notes_worker.py POINT NTH`.

The points are the steps at which an event's state changes. The worker has no hooks for them; this module patches it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import uvloop

from ops.commands.terminal import settings_and_config
from ops.processes.worker import run
from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from schemas.record import Record
from schemas.verdict import Verdict
from sinks.postgres.rows import Flush
from sinks.postgres.store import Transaction
from streams.agent import Agent
from streams.item import Attempt
from streams.process import Processor
from streams.rules.registry import OTHER
from tests.kits.notes import notes

POINTS = ("in-rule", "before-commit", "after-commit", "after-mark", "never")


class _Countdown:
    def __init__(self, nth: int) -> None:
        self.left = nth

    def __call__(self) -> None:
        self.left -= 1
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, die: _Countdown) -> None:
    """Install `die` at the point."""
    rule = notes.rules["note.written"]
    flush, process, mark = Transaction.flush, Processor.process, Agent.mark

    def decide(event: Event[Any], known: Known) -> list[Effect]:
        die()
        return rule.decide(event, known)

    async def flush_and_die(self: Transaction, rows: Flush) -> None:
        await flush(self, rows)
        die()

    async def process_and_die(
        self: Processor, records: Sequence[Record], attempt: Attempt | None = None
    ) -> list[Verdict]:
        verdicts = await process(self, records, attempt)
        die()
        return verdicts

    def mark_and_die(self: Agent, records: Sequence[Record], verdicts: Sequence[Verdict]) -> None:
        mark(self, records, verdicts)
        die()

    if point == "in-rule":
        notes.rules["note.written"] = replace(rule, decide=decide)
    elif point == "before-commit":
        setattr(Transaction, "flush", flush_and_die)  # noqa: B010  # a plain assignment is a type error
    elif point == "after-commit":
        setattr(Processor, "process", process_and_die)  # noqa: B010  # a plain assignment is a type error
    elif point == "after-mark":
        setattr(Agent, "mark", mark_and_die)  # noqa: B010  # a plain assignment is a type error
    elif point != "never":
        raise SystemExit(f"no such point: {point}")


def stream_of(type_: str) -> str:
    """Replaces streams/rules/catalog.py for this one stream."""
    return notes.name if type_ in notes.rules else OTHER


if __name__ == "__main__":
    arm(sys.argv[1], _Countdown(int(sys.argv[2])))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*settings_and_config("worker"), frozenset(), rules=notes.rules, stream_of=stream_of))
