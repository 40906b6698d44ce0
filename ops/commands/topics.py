"""`billing topics`: the two topics exist, with one partition count, and keep what they must for as long as they must.

`{prefix}.events` is what every stream reads; `{prefix}.dead` takes what cannot be applied. One count for both, so that
a dead letter keeps its partition with its key. Safe to run again: what exists is checked, never changed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.topics import TopicsUnusable, ensure_topics
from schemas.settings import InvalidSettings, load_settings


def topics(
    partitions: Annotated[int | None, typer.Option(min=1, max=1000, help="Instead of BILLING_PARTITIONS.")] = None,
) -> None:
    """Create the topics, or check those that exist.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 billing topics

    Exits 1 if Kafka does not answer or a topic has another partition count, 2 if a setting is missing.
    """
    try:
        settings = load_settings()
    except InvalidSettings as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(2) from None
    if partitions is not None:
        settings = settings.model_copy(update={"partitions": partitions})
    try:
        outcome = ensure_topics(settings)
    except TopicsUnusable as error:
        typer.echo(f"billing topics: {error}", err=True)
        raise typer.Exit(1) from None
    for name, state in outcome.items():
        typer.echo(f"{name}: {state}, {settings.partitions} partitions")
