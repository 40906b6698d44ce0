"""`billing worker` on the notes stream with a rule that fails on purpose, or `sound`: `broken_worker.py raises`.

`raises` fails on every note except those of user `well`, as after a bad deploy. `blocks` never returns from a note
with the text `block`, and blocks the event loop; `stalls` blocks it for ten seconds, busy. `sound` does none of this.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import replace

import uvloop

from ops.commands.terminal import settings_and_config
from ops.processes.worker import run
from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from tests.chaos.notes_worker import stream_of
from tests.kits.notes import NoteObject, notes

STALL_S = 10.0
_SOUND = notes.rules["note.written"]


def raises(event: Event[NoteObject], known: Known) -> list[Effect]:
    """Fails as if a field had been renamed."""
    if event.object.user != "well":
        raise AttributeError("'Note' object has no attribute 'usr'")
    return _SOUND.decide(event, known)


def blocks(event: Event[NoteObject], known: Known) -> list[Effect]:
    """Wait for an event that is never set."""
    if event.object.text == "block":
        threading.Event().wait()
    return _SOUND.decide(event, known)


def stalls(event: Event[NoteObject], known: Known) -> list[Effect]:
    """Compute for ten seconds in Python. Other threads run in between, which one call of `re` would not allow."""
    until = time.monotonic() + STALL_S
    while event.object.text == "block" and time.monotonic() < until:
        pass
    return _SOUND.decide(event, known)


if __name__ == "__main__":
    decide = {"raises": raises, "blocks": blocks, "stalls": stalls, "sound": _SOUND.decide}[sys.argv[1]]
    notes.rules["note.written"] = replace(_SOUND, decide=decide)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(*settings_and_config("worker"), frozenset(), rules=notes.rules, stream_of=stream_of))
