"""`billing topics`: creates the topics, checks existing ones, or gives them more partitions. Safe to run again.

All streams read `{prefix}.events`; events that cannot be applied go to `{prefix}.dead`. With `feed.topic`, changes go
to `{prefix}.changes`. All have the same partition count, so that a dead letter and a change have the partition of their
event. Settings of existing topics are compared, never changed.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from eventlog.groups import Groups
from eventlog.topics import TopicsUnusable, changelog_of, compare_settings, ensure_topics
from ops.commands.acting import entry_for
from ops.commands.terminal import exits, fail, note, refuse, run_or_exit, say, start_logging
from recovery.repartition.repartition import Repartition, Repartitioned
from schemas.process_settings import load_process_settings
from schemas.settings import Config, InvalidSettings, Settings, load_config
from sinks.postgres.audited import recorded


def topics(
    partitions: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Number of partitions. Default: BILLING_PARTITIONS.")
    ] = None,
    repartition: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Give all topics this number of partitions and move unread events."),
    ] = None,
    warn: Annotated[
        bool, typer.Option("--warn", help="Exit 0 although a setting does not fit. For deployments.")
    ] = False,
) -> None:
    """Create the topics, or check the existing ones.

    Example: BILLING_KAFKA_BOOTSTRAP=127.0.0.1:9092 billing topics
             billing topics --repartition 24   (stop everything first: docs/scaling.md)

    Exits 1 if a topic has a different partition count or a setting that does not fit or can't be read, or if something
    still runs during --repartition. With --warn settings are only printed: most harm later, and a deployment must not
    stop for them. Exits 2 if a setting is invalid, 3 if Kafka or Postgres does not answer.
    """
    with exits("topics"):  # the first two topics need no config, so there may be none yet
        settings = load_process_settings("topics")
        config = load_config(settings.config_path) if settings.config_path.exists() else Config()
    start_logging(settings, "topics")
    if repartition is not None:
        _repartition(settings, repartition)
        return
    if partitions is not None:
        settings = settings.model_copy(update={"partitions": partitions})
    with exits("topics", no=(TopicsUnusable,)):
        outcome = ensure_topics(settings, with_changes=config.feed.topic)
        changelogs = tuple(changelog_of(group) for group in Groups(settings.kafka).names(settings.topic_prefix))
        compared = compare_settings(settings, erase_after_days=config.rules.erase_after_days, changelogs=changelogs)
    for name, state in outcome.items():
        say(f"{name}: {state}, {settings.partitions} partitions")
    for name in compared.unread:
        say(f"{name}: its settings are not known: this user may not read them (DescribeConfigs)")
    for line in compared.differences:
        say(line)
    message = f"{len(compared.differences)} settings do not fit: kafka-configs --alter changes them (docs/runbook.md)"
    if compared.differences:
        (note if warn else partial(fail, "topics"))(message)
    elif compared.unread and not warn:
        fail("topics", "settings that are not known may not fit")


def _repartition(settings: Settings, partitions: int) -> None:
    if not settings.database_url.get_secret_value():
        refuse("topics", "BILLING_DATABASE_URL: needed to move the positions of the workers")
    entry = entry_for("topics", target=settings.events_topic, filter={"repartition": partitions})

    async def work() -> Repartitioned:
        async with recorded(settings.database_url, entry, refused=(TopicsUnusable, InvalidSettings)) as noted:
            done = await Repartition(settings, partitions).run()
            noted.count = done.moved
        return done

    done = run_or_exit("topics", work, no=(TopicsUnusable,))
    if done.before == done.partitions and not done.moved:
        say(f"{settings.events_topic}: {done.partitions} partitions")
        return
    say(f"{settings.events_topic}: {done.before} → {done.partitions} partitions")
    say(f"{done.moved} unread events of {done.customers} customers moved; their order per customer is as before")
    say(f"set BILLING_PARTITIONS={done.partitions} and start everything")
