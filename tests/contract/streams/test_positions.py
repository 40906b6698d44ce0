"""The positions of a group in the database, compared with what Kafka and a running worker know."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from schemas.errors import DatabaseBehind
from schemas.verdict import Duplicate
from streams.item import Attempt
from streams.positions import Positions
from tests.kits.processorkit import TOPIC, ProcessorKit, note, open_processor


@pytest.fixture
async def bench(kafka_bootstrap: str, migrated_url: str, topic_prefix: str) -> AsyncIterator[ProcessorKit]:
    async with open_processor(kafka_bootstrap, migrated_url, topic_prefix) as made:
        yield made


async def test_a_burial_that_finds_the_event_applied_moves_the_position_all_the_same(bench: ProcessorKit) -> None:
    """The record is acked, so the group commits its offset: a lower position would look like a restored database."""
    positions = Positions(bench.processor.store, bench.processor.group)
    processor = replace(bench.processor, positions=positions)
    await processor.process([note("evt_1", 0)])
    again = replace(note("evt_1", 0), offset=7)
    assert await processor._dead_letter(again, ValueError("refused"), Attempt()) == [Duplicate()]
    assert positions.standing == {(TOPIC, 0): 8}
    await positions.look()
    assert await bench.rows("select next_offset from billing.positions") == [{"next_offset": 8}]


async def test_a_gap_that_is_reported_during_a_batch_is_written_with_the_next(bench: ProcessorKit) -> None:
    positions = Positions(bench.processor.store, bench.processor.group)
    processor = replace(bench.processor, positions=positions)
    await processor.process([note("evt_1", 0)])
    async with bench.processor.store.transaction([]) as transaction:
        await positions.check(transaction, [note("evt_2", 0)])
        positions.removed(TOPIC, 0)  # the consumer reads ahead of the batch
    positions.applied({TOPIC: {0: 1}})
    await processor.process([replace(note("evt_3", 0), offset=9)])
    assert await bench.rows("select 1 from billing.positions where gap_since is not null") != []


async def test_what_the_log_has_lost_since_the_restored_position_is_a_gap(bench: ProcessorKit) -> None:
    positions = Positions(bench.processor.store, bench.processor.group)
    await positions.resume(TOPIC, {0: None}, {0: 0}, {0: 0})
    await replace(bench.processor, positions=positions).process([note("evt_1", 0)])
    assert await positions.resume(TOPIC, {0: 40}, {0: 30}, {0: 50}) == {0: 30}
    assert await bench.rows("select 1 from billing.positions where gap_since is not null") != []


async def test_T11_what_a_lost_copy_applied_after_the_last_commit_of_offsets_is_withheld(bench: ProcessorKit) -> None:
    """The group commits its offsets up to a second after the batch: the worker that notices the loss knows more."""
    group, places = bench.processor.group, {0: 0, 1: 0}
    lost = Positions(bench.processor.store, group)
    await lost.resume(TOPIC, {0: None, 1: None}, places, places)
    lost.standing.update({(TOPIC, 0): 7, (TOPIC, 1): 0})  # as the lost copy had them
    with pytest.raises(DatabaseBehind):
        await lost.look()
    await lost.note_lost()

    positions = Positions(bench.processor.store, group)
    ends = {0: 9, 1: 4}
    assert await positions.resume(TOPIC, {0: 5, 1: None}, places, ends) == {0: 0}
    async with bench.processor.store.transaction([]) as transaction:
        assert await positions.check(transaction, [note("evt_1", 0), replace(note("evt_2", 0), partition=1)]) == {
            (TOPIC, 0): 7
        }


async def reading_again(bench: ProcessorKit, reached: int) -> Positions:
    """Returns the positions of a worker that has read up to `reached`, of a database whose lost copy had 1000."""
    group = bench.processor.group
    await bench.rows(
        "insert into billing.positions (consumer_group, topic, partition, next_offset, reread_until, updated_at) "
        f"values ('{group}', '{TOPIC}', 0, 100, 1000, now()) returning 1"
    )
    positions = Positions(bench.processor.store, group)
    assert await positions.resume(TOPIC, {0: 100}, {0: 0}, {0: 1200}) == {}
    await bench.rows(f"update billing.positions set next_offset = {reached} returning 1")
    positions.applied({TOPIC: {0: reached}})
    return positions


async def restore(bench: ProcessorKit, next_offset: int) -> None:
    await bench.rows(f"update billing.positions set next_offset = {next_offset}, reread_until = null returning 1")


async def test_T11_a_second_restore_forgets_no_mail_of_the_first_copy(bench: ProcessorKit) -> None:
    positions = await reading_again(bench, 700)
    await restore(bench, 100)
    with pytest.raises(DatabaseBehind):
        await positions.look()
    await positions.note_lost()

    started = Positions(bench.processor.store, bench.processor.group)
    assert await started.resume(TOPIC, {0: 700}, {0: 0}, {0: 1200}) == {0: 100}
    async with bench.processor.store.transaction([]) as transaction:
        assert await started.check(transaction, [note("evt_1", 0)]) == {(TOPIC, 0): 1000}


@pytest.mark.parametrize("restored_to", [100, 150])
async def test_T11_a_second_restore_is_noticed_before_anything_is_read_again(
    bench: ProcessorKit, restored_to: int
) -> None:
    """The position is not lower than the worker's then. Only what the database no longer says shows it."""
    positions = await reading_again(bench, 100)
    await positions.look()
    await restore(bench, restored_to)
    with pytest.raises(DatabaseBehind, match="restored again"):
        await positions.look()
    async with bench.processor.store.transaction([]) as transaction:
        with pytest.raises(DatabaseBehind, match="restored again"):
            await positions.check(transaction, [note("evt_1", 0)])
    await positions.note_lost()
    expected = [{"next_offset": restored_to, "reread_until": 1000}]
    assert await bench.rows("select next_offset, reread_until from billing.positions") == expected
    await positions.look()


async def test_T11_a_rebalance_after_a_second_restore_writes_down_what_the_first_copy_had(bench: ProcessorKit) -> None:
    positions = await reading_again(bench, 100)
    await restore(bench, 100)
    assert await positions.resume(TOPIC, {0: 100}, {0: 0}, {0: 1200}) == {}
    assert await bench.rows("select reread_until from billing.positions") == [{"reread_until": 1000}]


async def test_a_database_older_than_its_positions_is_not_read_again_from_0_after_a_loss(bench: ProcessorKit) -> None:
    await bench.rows("update billing.database_identity set had_events = true")
    lost = Positions(bench.processor.store, bench.processor.group)
    lost.standing[TOPIC, 0] = 7
    await lost.note_lost()
    assert await bench.rows("select 1 from billing.positions") == []
