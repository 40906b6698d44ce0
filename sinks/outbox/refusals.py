"""Recognises refusals that are about us and not about one row: a relay that is closed to us, a key without a right.

Some answers do not show which it is. So the first refusal of a row is not final: the row waits a few seconds, and the
try does not count. If RUN different subjects are refused in a row with the same answer, and nothing is accepted in
between, the outbox pauses. The second refusal of a row is final if what was accepted since the first shows that it is
about the row; otherwise the row is tried again by its timetable.

The group is what may be refused as a whole for a reason of its own: the domain of a recipient, a resource of Stripe's
API. An accepted row shows that a refusal is not about us if it is of the same group. One of another group shows little:
a relay that is closed to us may still accept mails to our own domain. Two other groups are enough.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Set
from datetime import timedelta
from typing import TypeVar

from schemas.storable import reason_text

RUN = 5
HOLD = timedelta(seconds=5)
_HELD = "refused, checking whether others are refused too: "
_ADDRESS = re.compile(r"<[^>]*>|\S+@\S+")
_CODE = re.compile(r"\d{3}|\d\.\d{1,3}\.\d{1,3}")
_DIGIT = re.compile(r"\d")
_LONGEST = 200
_OTHERS = 2
_REMEMBERED = 2000
"""Rows that have been refused once, and groups. What is forgotten is tried again by its timetable."""

K = TypeVar("K")


class Refusals:
    """The run of equal answers, shared by all lanes of one dispatcher."""

    def __init__(self) -> None:
        self._answer: str | None = None
        self._run: dict[str, tuple[str, str | None]] = {}
        """Group and kind of each subject in the run."""
        self._turn = self._began = 0
        self._first: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._accepted: OrderedDict[str, int] = OrderedDict()
        """The turns of each subject's first refusal, and of each group's last acceptance."""

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of rows in the run: one of another kind shows sooner whether it is about us."""
        return frozenset(kind for _, kind in self._run.values() if kind is not None)

    def add(self, reason: str, subject: str, group: str = "", kind: str | None = None) -> bool:
        """Note a refusal. Returns whether it is about us: RUN different subjects in a row had this answer."""
        answer = answer_of(reason)
        self._turn += 1
        if (answer, subject) not in self._first:
            _remember(self._first, (answer, subject), self._turn)
        if answer != self._answer:
            self._answer, self._run, self._began = answer, {}, self._turn
        if len(self._run) < RUN:
            self._run[subject] = group, kind
        return len(self._run) >= RUN

    def is_about_the_row(self, reason: str, subject: str, group: str = "") -> bool:
        """Whether accepted rows show that the refusal of this subject is not about us."""
        first = self._first.get((answer_of(reason), subject))
        return first is not None and self._is_disproved({group}, first)

    def accepted(self, group: str = "") -> bool:
        """Note that the other side has accepted a row. Returns whether no run is left that may be about us."""
        self._turn += 1
        _remember(self._accepted, group, self._turn)
        groups = {of_run for of_run, _ in self._run.values()}
        if len(groups) == 1 or self._is_disproved(groups, self._began):
            self._answer, self._run = None, {}
        return not self._run

    def _is_disproved(self, groups: Set[str], since: int) -> bool:
        """Whether a row of one of these groups, or rows of two others, have been accepted since this turn."""
        accepted = set()
        for group, turn in reversed(self._accepted.items()):
            if turn < since:
                break
            accepted.add(group)
            if group in groups or len(accepted) == _OTHERS:
                return True
        return False


def _remember(turns: OrderedDict[K, int], key: K, turn: int) -> None:
    turns[key] = turn
    turns.move_to_end(key)
    if len(turns) > _REMEMBERED:
        turns.popitem(last=False)


def answer_of(reason: str) -> str:
    """Return the answer without addresses, ids and numbers, which differ between rows with the same cause.

    Reply codes stay. It is the same for a reason and for the `last_error` that is stored of it.
    """
    words = _ADDRESS.sub("", reason_text(reason.removeprefix(_HELD)).lower()).split()
    kept = (word for word in words if not _DIGIT.search(word) or _CODE.fullmatch(word))
    return " ".join(kept)[:_LONGEST].strip(" :;,.")


def held_reason(reason: str) -> str:
    """Return the `last_error` of a row that waits after its first refusal."""
    return _HELD + answer_of(reason)


def was_refused_before(last_error: str | None, reason: str) -> bool:
    """Whether the row's last try ended with the same answer."""
    return last_error is not None and answer_of(last_error) == answer_of(reason)
