"""`billing worker`: the process that applies events."""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.terminal import refuse, settings_and_config
from ops.processes.skeleton import run_process
from ops.processes.worker import ALL_STREAMS, run
from streams.rules.catalog import STREAMS
from streams.rules.registry import OTHER


def worker(
    streams: Annotated[
        list[str] | None, typer.Argument(help="Run only these streams, in their own consumer group.")
    ] = None,
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave this stream to another group. Repeatable.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume-after-brake", help="Continue although too many events died with this code.")
    ] = False,
    bury: Annotated[
        list[str] | None,
        typer.Option("--bury", help="Dead-letter this record unread: topic/partition/offset. Repeatable."),
    ] = None,
) -> None:
    """Apply events: read them from the log, decide by the rules, and write the results to Postgres.

    Example: billing worker            (all streams, one group)
             billing worker invoices   (one stream, in its own group)
             billing worker --without invoices   (the other streams, in the first group)
             billing worker --bury billing.events/3/1207   (the record that `worker.cannot_go_on` names)

    If too many events die it stops with exit code 71. After a restart it waits for different code, for `billing brake
    release`, or for --resume-after-brake. Exits 1 if the ops port is in use, 2 if a setting or stream is invalid or
    there is no topic, 3 if Kafka or Postgres does not answer at the start, 70 if it is stuck, crashes, or meets an
    event that it can neither apply nor dead-letter.
    """
    only, left_out = frozenset(streams or ()), frozenset(without or ())
    unknown = (only | left_out) - ALL_STREAMS
    if unknown:
        refuse("worker", f"no such stream: {', '.join(sorted(unknown))} (there are {', '.join(STREAMS)}, {OTHER})")
    if only and left_out:
        refuse("worker", "name streams, or leave some out with --without, but not both")
    records = frozenset(_record_named(text) for text in bury or ())
    settings, config = settings_and_config("worker")
    raise typer.Exit(
        run_process(
            "worker",
            lambda: run(settings, config, only, without=left_out, resume_after_brake=resume, bury=records),
            policy=True,
        )
    )


def _record_named(text: str) -> tuple[str, int, int]:
    topic, _, place = text.partition("/")
    partition, _, offset = place.partition("/")
    if not (topic and partition.isdecimal() and offset.isdecimal()):
        refuse("worker", f"--bury {text}: not topic/partition/offset")
    return topic, int(partition), int(offset)
