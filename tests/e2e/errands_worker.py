"""`billing worker` on the errands stream of tests/kits/timerkit.py."""

from __future__ import annotations

import asyncio

import uvloop

from ops.commands.terminal import settings_and_config
from ops.processes.worker import run
from streams.rules.registry import OTHER
from tests.kits.timerkit import errands


def stream_of(type_: str) -> str:
    """Replaces streams/rules/catalog.py for this one stream."""
    return errands.name if type_ in errands.rules else OTHER


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*settings_and_config("worker"), frozenset(), rules=errands.rules, stream_of=stream_of))
