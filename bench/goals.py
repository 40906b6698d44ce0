"""The goals of the benchmarks: what a figure, or its ratio to another figure of the same run, has to be."""

from __future__ import annotations

from bench.console import SLOWEST
from bench.drain import WORKER
from bench.figures import Goal
from bench.gateway import CONNECTIONS, LIMIT
from bench.ledger import EVENTS, PLAIN, TIMERS
from bench.mails import ALONE
from bench.recovery import KILLED, KILLED_AND_RESTARTED
from bench.rivals import BY_HAND, MAIL, QUEUED, SENT
from bench.whole import HALF
from bench.years import EMPTY, FULL, event_of

GOALS = (
    Goal("end to end at saturation, mails queued", QUEUED, at_least=2.0, of=BY_HAND),
    Goal("end to end at saturation, every mail sent", SENT, at_least=1.5, of=BY_HAND),
    Goal(
        "p99 of the answer",
        f"{QUEUED}: p99 of the answer",
        at_most=0.5,
        of=f"{BY_HAND}: p99 of the answer",
    ),
    *(
        Goal(
            f"gateway at {connections} connections",
            f"gateway, {connections} connections, 1 processes",
            at_least=0.8,
            of=f"{LIMIT}, {connections} connections, 1 processes",
        )
        for connections in CONNECTIONS
    ),
    Goal("worker", WORKER, at_least=0.7, of="stock Faust, decodes only"),
    Goal("a mail, CPU ms in the dispatcher", MAIL, at_most=0.4),
    Goal("a mail, CPU ms in the dispatcher alone", ALONE, at_most=0.4),
    Goal("half load, p50 to the commit, ms", f"{HALF}: p50 to committed", at_most=60),
    Goal("half load, p99 to the commit, ms", f"{HALF}: p99 to committed", at_most=150),
    Goal("Postgres, CPU ms for each event", f"{WORKER}: postgres", at_most=0.15),
    Goal("Postgres, bytes for each event", f"{WORKER}: in Postgres", at_most=3000),
    Goal("worker on a full database", FULL, at_least=0.9, of=EMPTY),
    Goal("an event of a customer with 500 open timers", event_of(TIMERS), at_most=1.5, of=event_of(PLAIN)),
    Goal("an event of a customer with 20,000 events", event_of(EVENTS), at_most=1.5, of=event_of(PLAIN)),
    Goal("every page of the console, p95 to the first byte, ms", f"{SLOWEST}: p95 to the first byte", at_most=150),
    Goal("kill -9 of a worker, seconds until all partitions move", KILLED, at_most=8),
    Goal("the same with a member id and a supervisor", KILLED_AND_RESTARTED, at_most=3),
)
