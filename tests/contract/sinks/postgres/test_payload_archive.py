"""`billing prune` with an archive: no payload ends that is not in a file, and an erasure reaches the files (B6)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from pydantic import SecretStr

from local.stripe.builder import StripeEvents
from local.stripe.payments import charge
from recovery.archived import archived_payload
from recovery.pruning import run
from schemas.ordering import guest_key
from schemas.payloads import ArchiveAway, KeptPayload
from schemas.retention import Retention
from schemas.settings import InvalidSettings
from schemas.timing import utc_now
from sinks.exports.archive import write_archive
from sinks.payloads.archive import PayloadArchive
from sinks.postgres import erasure, ownership
from sinks.postgres.pool import reading
from sinks.postgres.queries import ledger_row
from tests.kits.erasurekit import JANE, NEEDLES, ErasureKit, history, left, open_kit
from tests.kits.rulekit import NOW

MAKE = StripeEvents()
GUEST = "kim.guest@example.com"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "payloads"


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path, folder: Path
) -> AsyncIterator[ErasureKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix, tmp_path, payloads=str(folder)) as opened:
        opened.now[0] = utc_now() - timedelta(days=400)
        yield opened


async def prune(rig: ErasureKit, archive: PayloadArchive, **retention: int) -> dict[str, int]:
    return await run(SecretStr(rig.url), Retention(**retention), by="sam", archive=archive)


async def payloads(rig: ErasureKit) -> dict[str, Any]:
    """The payloads in the ledger by event id."""
    rows = await rig.rows("SELECT event_id, payload FROM billing.events WHERE payload IS NOT NULL")
    return {row["event_id"]: orjson.loads(row["payload"]) for row in rows}


async def archived(rig: ErasureKit, archive: PayloadArchive) -> dict[str, Any]:
    """The payloads that can be read from the archive, by event id."""
    found = {}
    async with reading(SecretStr(rig.url)) as connection:
        for (event_id,) in [tuple(row.values()) for row in await rig.rows("SELECT event_id FROM billing.events")]:
            row = await ledger_row(connection, event_id)
            assert row is not None
            if (payload := await archived_payload(connection, archive, row)) is not None:
                found[event_id] = payload
    return found


def files_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.jsonl"))


async def exported(rig: ErasureKit, archive: PayloadArchive) -> bytes:
    """The events in an archive for the customer."""
    file = io.BytesIO()
    connection = await asyncpg.connect(rig.url)
    await write_archive(connection, file, archive, account="", customer_id="cus_1", organization_id="org_1")
    await connection.close()
    with zipfile.ZipFile(file) as made:
        return made.read("json/events.json")


async def test_T27_pruned_payloads_are_read_back_and_an_erasure_leaves_nothing_to_read(
    rig: ErasureKit, folder: Path
) -> None:
    archive = PayloadArchive(str(folder))
    alone = charge(MAKE, "ch_alone", customer="cus_1", invoice=None, payment_intent=None)
    await rig.process(*history(MAKE), MAKE.event("charge.succeeded", alone, NOW + 8))
    before = await payloads(rig)
    export = await exported(rig, archive)

    done = await prune(rig, archive)

    kept = await archived(rig, archive)
    assert len(kept) == done["payloads"] == len(before) - 1
    assert kept | await payloads(rig) == before
    assert orjson.loads(await exported(rig, archive))[0]["payload"] == orjson.loads(export)[0]["payload"] is not None
    files = b"".join(path.read_bytes() for path in files_in(folder))
    assert [needle for needle in (*NEEDLES, *JANE.values()) if str(needle).encode() in files] == []
    assert set((await prune(rig, archive)).values()) == {0}

    rig.now[0] = utc_now() - timedelta(days=35)
    await rig.process(left(MAKE, int(rig.now[0].timestamp())))
    rig.now[0] = utc_now()
    await rig.process(await rig.due("erase::sub_1"))
    assert await archived(rig, archive) == {}
    assert await rig.rows("SELECT FROM billing.events WHERE payload_key IS NOT NULL OR payload_place IS NOT NULL") == []
    assert JANE["email"].encode() not in await exported(rig, archive)
    assert await rig.found() == {}


async def test_T27_a_guests_archived_payloads_are_found_by_their_address_and_erased(
    rig: ErasureKit, folder: Path
) -> None:
    archive = PayloadArchive(str(folder))
    bought = MAKE.checkout_session("cs_1", customer=None, mode="payment", email=GUEST, name="Kim Guest")
    await rig.process(MAKE.event("checkout.session.completed", bought, NOW))
    await prune(rig, archive)
    assert len(await archived(rig, archive)) == 1
    connection = await asyncpg.connect(rig.url)
    (data,) = await ownership.guest_data(connection, guest_key(GUEST))
    counts = await erasure.clear_events(connection, data.account, data.event_ids, data.stripe_ids, utc_now())
    await ownership.forget_guest(connection, data.event_ids)
    await connection.close()
    assert counts["events"] == 1
    assert await archived(rig, archive) == {}


class Failing(PayloadArchive):
    """An archive that loses its disk, or the process, after the file is written."""

    def __init__(self, url: str, error: BaseException) -> None:
        super().__init__(url)
        self._error = error

    async def keep(self, home: str, day: date, payloads: Sequence[tuple[str, str]]) -> list[KeptPayload]:
        await super().keep(home, day, payloads)
        raise self._error


@pytest.mark.parametrize("error", [ArchiveAway("no space"), KeyboardInterrupt()])
async def test_T27_no_payload_ends_that_is_not_in_the_archive(
    rig: ErasureKit, folder: Path, error: BaseException
) -> None:
    await rig.process(*history(MAKE))
    before = await payloads(rig)
    full = "SELECT FROM billing.emails WHERE data <> '{}'"
    await rig.rows("UPDATE billing.emails SET status = 'withheld'")
    assert await rig.rows(full) != []
    with pytest.raises(type(error)):
        await prune(rig, Failing(str(folder), error))
    assert await payloads(rig) == before
    assert (await rig.rows(full) == []) is isinstance(error, ArchiveAway), "all else is pruned"
    assert await rig.rows("SELECT FROM billing.events WHERE payload_key IS NOT NULL") == []
    archive = PayloadArchive(str(folder))
    await prune(rig, archive)
    assert await archived(rig, archive) | await payloads(rig) == before


async def test_T27_the_file_of_a_batch_that_is_rolled_back_is_deleted(rig: ErasureKit, folder: Path) -> None:
    await rig.process(*history(MAKE))
    before = await payloads(rig)
    await rig.rows("ALTER TABLE billing.events ADD CONSTRAINT kept CHECK (payload_pruned_at IS NULL) NOT VALID")
    with pytest.raises(Exception, match="kept"):
        await prune(rig, PayloadArchive(str(folder)))
    assert await payloads(rig) == before
    assert files_in(folder) == []


async def test_T27_the_archive_ends_after_its_own_days(rig: ErasureKit, folder: Path) -> None:
    archive = PayloadArchive(str(folder))
    await rig.process(*history(MAKE))
    await prune(rig, archive)
    kept = len(await archived(rig, archive))
    day = files_in(folder)[0].parent
    assert (await prune(rig, archive, archived_days=30))["archived payloads"] == 0
    await rig.rows("UPDATE billing.events SET payload_pruned_at = payload_pruned_at - interval '40 days'")
    day.rename(day.with_name((date.fromisoformat(day.name) - timedelta(days=40)).isoformat()))
    assert (await prune(rig, archive, archived_days=30))["archived payloads"] == kept > 0
    assert await archived(rig, archive) == {}
    assert files_in(folder) == []


async def test_T27_without_the_address_nothing_ends_where_payloads_are_archived(rig: ErasureKit, folder: Path) -> None:
    await rig.process(*history(MAKE))
    await prune(rig, PayloadArchive(str(folder)))
    later = MAKE.event("customer.updated", MAKE.customer("cus_1", email=JANE["email"], name=JANE["name"]), NOW + 9)
    await rig.process(later)
    with pytest.raises(InvalidSettings, match="--without-archive"):
        await prune(rig, PayloadArchive(""))
    assert later["id"] in await payloads(rig)
    done = await run(SecretStr(rig.url), Retention(), by="sam", may_end_for_good=True)
    assert done["payloads"] == 1
    assert len(files_in(folder)) == 1


async def test_T27_large_payloads_are_archived_in_slices(
    rig: ErasureKit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sinks.postgres.prune.SLICE_BYTES", 1)
    await rig.process(*history(MAKE))
    before = await payloads(rig)
    archive = PayloadArchive(str(folder))
    done = await prune(rig, archive)
    assert await archived(rig, archive) | await payloads(rig) == before
    assert len(files_in(folder)) == done["payloads"] > 1


async def test_T27_a_payload_that_is_stored_again_is_archived_no_longer(rig: ErasureKit, folder: Path) -> None:
    archive = PayloadArchive(str(folder))
    event = MAKE.event("customer.updated", MAKE.customer("cus_1", email=JANE["email"], name=JANE["name"]), NOW)
    await rig.process(event)
    await prune(rig, archive)
    await rig.rows("UPDATE billing.events SET outcome = 'dead'")
    await rig.process(event)
    (row,) = await rig.rows("SELECT payload, payload_key, payload_place, payload_pruned_at FROM billing.events")
    assert orjson.loads(row.pop("payload"))["id"] == event["id"]
    assert set(row.values()) == {None}


async def test_T27_an_export_names_the_payloads_whose_file_is_lost(rig: ErasureKit, folder: Path) -> None:
    archive = PayloadArchive(str(folder))
    await rig.process(*history(MAKE))
    await prune(rig, archive)
    (gone,) = files_in(folder)
    gone.unlink()
    file, connection = io.BytesIO(), await asyncpg.connect(rig.url)
    await write_archive(connection, file, archive, account="", customer_id="cus_1", organization_id="org_1")
    with zipfile.ZipFile(file) as made:
        manifest, events = orjson.loads(made.read("manifest.json")), orjson.loads(made.read("json/events.json"))
    lost = [event["event_id"] for event in events if event["payload"] is None]
    assert manifest["missing_payloads"] == lost != []
    away = PayloadArchive(str(folder / "elsewhere"))  # a volume that is not mounted: the export is tried again
    with pytest.raises(ArchiveAway):
        await write_archive(connection, file, away, account="", customer_id="cus_1", organization_id="org_1")
    await connection.close()


def test_T27_the_json_of_a_customer_has_a_needle() -> None:
    """The searches above would find what they search for."""
    text = orjson.dumps(history(MAKE)).decode()
    assert all(needle in text for needle in (JANE["name"], JANE["email"]))
