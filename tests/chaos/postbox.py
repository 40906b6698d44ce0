"""The mail server of a chaos run. It stores each message as a file and records after which ones it broke off."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from aiosmtpd.smtp import Envelope

from local.stack.mailbox import content_of, store
from tests.chaos.checker import id_of
from tests.faulty_mailbox import FaultyMailbox, MailboxFault


class Postbox(FaultyMailbox):
    """Writes messages to `folder`, not to memory: a long run has tens of thousands."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.cut_off: Counter[str] = Counter()

    def take_back_faults(self) -> None:
        """Drop the faults that no client has met yet."""
        self._faults.clear()

    async def _keep(self, envelope: Envelope) -> None:
        content = content_of(envelope)
        # The caller has just taken the fault for this message, if any, off the queue.
        if self.met and self.met[-1] is MailboxFault.DIE_AFTER_DATA and len(self.met) > self._dead:
            self._dead = len(self.met)
            self.cut_off[id_of(content)] += 1
        await asyncio.to_thread(store, self.folder, content)

    _dead = 0
