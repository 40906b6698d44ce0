"""Recognises refusals that are about us and not about one row: a relay that is closed to us, a key without a right.

Some answers do not show which it is. So the first refusal of a row is not final: the row waits a few seconds, and the
try does not count. If RUN different subjects are refused in a row with the same answer, and nothing is accepted in
between, the outbox pauses. Otherwise the second refusal of the row is final.
"""

from __future__ import annotations

import re
from datetime import timedelta

RUN = 5
HOLD = timedelta(seconds=5)
_HELD = "refused, checking whether others are refused too: "
_ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")
_CODE = re.compile(r"\d{3}|\d\.\d{1,3}\.\d{1,3}")
_DIGIT = re.compile(r"\d")
_LONGEST = 200


class Refusals:
    """The run of equal answers, shared by all lanes of one dispatcher."""

    def __init__(self) -> None:
        self._answer: str | None = None
        self._subjects: set[str] = set()

    def add(self, reason: str, subject: str) -> bool:
        """Note a refusal. Returns whether it is about us: RUN different subjects in a row had this answer."""
        answer = answer_of(reason)
        if answer != self._answer:
            self._answer, self._subjects = answer, set()
        if len(self._subjects) < RUN:
            self._subjects.add(subject)
        return len(self._subjects) >= RUN

    def accepted(self) -> None:
        """The other side has accepted a row, so the run ends."""
        self._answer, self._subjects = None, set()


def answer_of(reason: str) -> str:
    """Return the answer without addresses, ids and numbers, which differ between rows with the same cause.

    Reply codes stay.
    """
    words = _ADDRESS.sub("", reason.removeprefix(_HELD).lower()).split()
    kept = (word for word in words if not _DIGIT.search(word) or _CODE.fullmatch(word))
    return " ".join(kept)[:_LONGEST].strip(" :;,.")


def held_reason(reason: str) -> str:
    """Return the `last_error` of a row that waits after its first refusal."""
    return _HELD + answer_of(reason)


def was_refused_before(last_error: str | None, reason: str) -> bool:
    """Whether the row's last try ended with the same answer."""
    return last_error is not None and answer_of(last_error) == answer_of(reason)
