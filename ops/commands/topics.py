"""`billing topics`: creates the topics, or checks their partition counts. Safe to run again.

All streams read `{prefix}.events`; events that cannot be applied go to `{prefix}.dead`. With `feed.topic`, changes go
to `{prefix}.changes`. All have the same partition count, so that a dead letter and a change have the partition of their
event. Existing topics are checked but never changed.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eventlog.topics import TopicsUnusable, ensure_topics
from ops.commands.terminal import exits, say, settings_or_exit, start_logging
from schemas.settings import Config, load_config


def topics(
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of partitions. Default: BILLING_PARTITIONS.")
    ] = None,
) -> None:
    """Create the topics, or check the existing ones.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 billing topics

    Exits 1 if a topic has a different partition count, 2 if a setting is invalid, 3 if Kafka does not answer.
    """
    settings = settings_or_exit("topics")
    start_logging(settings)
    with exits("topics"):  # the first two topics need no config, so there may be none yet
        config = load_config(settings.config_path) if settings.config_path.exists() else Config()
    if partitions is not None:
        settings = settings.model_copy(update={"partitions": partitions})
    with exits("topics", no=(TopicsUnusable,)):
        outcome = ensure_topics(settings, with_changes=config.feed.topic)
    for name, state in outcome.items():
        say(f"{name}: {state}, {settings.partitions} partitions")
