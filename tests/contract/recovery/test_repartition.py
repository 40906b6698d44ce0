"""`billing topics --repartition` where the database's positions are of a topic that was deleted and created again."""

from __future__ import annotations

import asyncio
from pathlib import Path

from eventlog.groups import Groups
from eventlog.topic_settings import TopicIdentity
from recovery.repartition.repartition import Repartition
from tests.kits.storekit import ask
from tests.kits.workerkit import open_rig, send


async def test_T15_T16_positions_of_an_earlier_topic_do_not_hide_unread_events(
    kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path
) -> None:
    async with open_rig(kafka_bootstrap, migrated_url, topic_prefix, tmp_path) as rig:
        topic, group = rig.settings.events_topic, f"{topic_prefix}.worker"
        send(rig, range(20))
        rig.producer.flush(30)
        await ask(
            rig.settings.database_url,
            "INSERT INTO billing.positions (consumer_group, topic, partition, next_offset, updated_at, topic_id) "
            "VALUES ($1, $2, 0, 3, now(), 'earlier'), ($1, $2, 1, 5000, now(), 'earlier')",
            group,
            topic,
        )
        Groups(rig.settings.kafka).commit(group, topic, {0: 3, 1: 2})

        done = await Repartition(rig.settings, 3, quiet_s=0.1).run()

        assert (done.before, done.partitions, done.moved) == (2, 3, 20)
        topic_id = await asyncio.to_thread(TopicIdentity(rig.settings.kafka, topic).read)
        reached = await rig.rows(
            "SELECT partition, next_offset, topic_id FROM billing.positions WHERE partition < 2 ORDER BY partition"
        )
        committed = Groups(rig.settings.kafka).committed(group, topic, range(2))
        assert [row["topic_id"] for row in reached] == [topic_id, topic_id]
        assert {row["partition"]: row["next_offset"] for row in reached} == committed
        assert sum(committed.values()) == 20
