"""`billing topics`: creates the two topics, or checks their partition counts. Safe to run again.

All streams read `{prefix}.events`; events that cannot be applied go to `{prefix}.dead`. Both have the same partition
count, so that a dead letter has the partition of its event. Existing topics are checked but never changed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.topics import TopicsUnusable, ensure_topics
from ops.runtime.logs import configure_logging
from ops.runtime.start import log_start_warnings
from schemas.errors import LogUnavailable
from schemas.settings import InvalidSettings, load_settings


def topics(
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of partitions. Default: BILLING_PARTITIONS.")
    ] = None,
) -> None:
    """Create the topics, or check the existing ones.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 billing topics

    Exits 1 if a topic has a different partition count, 2 if a setting is invalid, 3 if Kafka does not answer.
    """
    try:
        settings = load_settings()
    except InvalidSettings as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(2) from None
    configure_logging(log_format=settings.log_format, level=settings.log_level)
    log_start_warnings(settings)
    if partitions is not None:
        settings = settings.model_copy(update={"partitions": partitions})
    try:
        outcome = ensure_topics(settings)
    except InvalidSettings as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(2) from None
    except LogUnavailable as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(3) from None
    except TopicsUnusable as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(1) from None
    for name, state in outcome.items():
        typer.echo(f"{name}: {state}, {settings.partitions} partitions")
