"""Between two tries of the same mail: how long to wait.

    try        1      2      3       4       5        6        7         8
    before it  at     80 s   4 min   12 min  36 min   1 h 48   5 h 24    16 h 12
    since 1st  0      1 min  5 min   17 min  53 min   2 h 41   8 h 05    24 h 17

A greylisting server takes the second or third try, a mailbox that is full or a server in maintenance one of the last
two. Each pause is stretched or shortened by up to a tenth, so that a thousand mails deferred together do not come back
together. After the eighth try the mail has failed.
"""

from __future__ import annotations

from datetime import timedelta

from sinks.outbox.pauses import Timetable

TRIES = 8
TIMETABLE = Timetable(first=timedelta(seconds=80), factor=3, tries=TRIES)

UNKNOWN_RECIPIENT_LIMIT = timedelta(hours=72)
UNKNOWN_RECIPIENT_ASKED_AFTER = timedelta(minutes=1)
"""By then the customer's own event has come if it ever does; who became one before we listened has none."""
UNKNOWN_RECIPIENT_FIRST = timedelta(seconds=30)
UNKNOWN_RECIPIENT_LONGEST = timedelta(hours=6)


def pause_for_recipient(age: timedelta) -> timedelta | None:
    """How long a mail without a known recipient, queued `age` ago, waits; None once the limit is reached.

    A quarter of its age: the customer's own event usually follows within seconds, or else much later.
    """
    if age >= UNKNOWN_RECIPIENT_LIMIT:
        return None
    pause = min(max(age / 4, UNKNOWN_RECIPIENT_FIRST), UNKNOWN_RECIPIENT_LONGEST)
    return min(pause, UNKNOWN_RECIPIENT_LIMIT - age)
