"""The mail server of a chaos run: keeps each message as a file, and notes after which of them it broke off."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from aiosmtpd.smtp import Envelope

from local.stack.mailbox import content_of, store
from tests.chaos.checker import id_of
from tests.faulty_mailbox import Fault, FaultyMailbox


class Postbox(FaultyMailbox):
    """Messages go to `folder` instead of into memory: a long run has tens of thousands."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cut_off: Counter[str] = Counter()

    def take_back_faults(self) -> None:
        """What no client has met so far."""
        self._faults.clear()

    async def _keep(self, envelope: Envelope) -> None:
        content = content_of(envelope)
        # Its caller has just taken the fault that this message meets off the queue, if any.
        if self.met and self.met[-1] is Fault.DIE_AFTER_DATA and len(self.met) > self._dead:
            self._dead = len(self.met)
            self.cut_off[id_of(content)] += 1
        await asyncio.to_thread(store, self.folder, content)

    _dead = 0
