"""Every reader of the log goes on after a record whose header names are not UTF-8 (trust T1)."""

from __future__ import annotations

import asyncio

from eventlog.backlog import ids_on_the_way
from eventlog.history import HistoryReader
from eventlog.lookup import RecordLookup
from tests.kits import oddheaders
from tests.kits.gatewaykit import create_topics

NAMES = (b"\xff\xfe", b"a\0b", b"caf\xe9", b"\xed\xa0\x80", b"", b"event_id")


def test_T1_the_log_is_read_to_its_end(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = create_topics(kafka_bootstrap, topic_prefix, partitions=1)
    access, topic = settings.kafka, settings.events_topic

    async def produce() -> None:
        for name in NAMES:
            await oddheaders.produce(kafka_bootstrap, topic, b"cus_1", b"{}", name)

    asyncio.run(produce())

    with RecordLookup(access, topic) as lookup:
        assert set(lookup.find(["v"])) == {"v"}, "the value of the last record's header"
    history = HistoryReader(access, topic)
    try:
        records = history.read(100)
    finally:
        history.close()
    assert [record.offset for record in records] == list(range(len(NAMES)))
    assert records[-1].headers == {"event_id": "v"}
    assert records[0].headers == {}
    assert ids_on_the_way(access, f"{topic_prefix}.worker", topic) == {"v"}
