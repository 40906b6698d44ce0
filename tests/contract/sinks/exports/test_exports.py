"""B6, D8: an export contains all stored data, is deleted in time, and is retried until it fails."""

from __future__ import annotations

import asyncio
import csv
import io
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr
from typer.testing import CliRunner, Result

from local.stripe.builder import ApiShape, StripeEvents
from ops.cli import command_line
from schemas.state import Organization
from schemas.timing import utc_now
from schemas.verdict import Dead, Ignored
from sinks.exports.orders import ExportOrders
from sinks.postgres.personal_data import held_on_customers
from tests.kits.erasurekit import GONE, JANE, LAST4, ErasureKit, history, left, open_kit
from tests.kits.rulekit import NOW, at


@pytest.fixture(params=list(ApiShape), ids=lambda shape: shape.name.lower())
def make(request: pytest.FixtureRequest) -> StripeEvents:
    return StripeEvents(request.param)


@pytest.fixture
async def rig(
    kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path
) -> AsyncIterator[ErasureKit]:
    async with open_kit(kafka_bootstrap, database, topic_prefix, tmp_path) as opened:
        yield opened


async def test_B6_the_export_has_all_stored_data_and_is_deleted_with_it(rig: ErasureKit, make: StripeEvents) -> None:
    verdicts = await rig.process(*history(make), left(make))
    assert isinstance(verdicts[7], Dead)
    assert Ignored() in verdicts
    await rig.process(
        make.event("customer.created", make.customer("cus_2", email="kim@example.com", name="=Kim()"), NOW)
    )

    assert await rig.exporter.turn(0)
    assert not await rig.exporter.turn(0)

    (row,) = await rig.rows("SELECT * FROM billing.exports")
    (path,) = rig.archives()
    assert (row["status"], row["bytes"], row["location"]) == ("done", path.stat().st_size, path.name)
    assert path.parent.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        manifest = orjson.loads(archive.read("manifest.json"))
        documents = {name: orjson.loads(archive.read(f"json/{name}.json")) for name in manifest["rows"]}
        sheets = {
            name: list(csv.DictReader(io.StringIO(archive.read(f"csv/{name}.csv").decode()))) for name in documents
        }
        everything = b"".join(archive.read(name) for name in archive.namelist()).decode()
    assert set(documents) == {table.name for table in held_on_customers()}
    assert {name: len(rows) for name, rows in documents.items()} == manifest["rows"]
    assert {name: len(rows) for name, rows in sheets.items()} == manifest["rows"]
    assert (manifest["customer_id"], manifest["organization_id"]) == ("cus_1", Organization.id_of("", "cus_1"))
    assert documents["customers"][0]["email"] == sheets["customers"][0]["email"] == JANE["email"]
    assert documents["payment_methods"][0]["last4"] == LAST4
    assert len(documents["events"]) == len(history(make)) + 1
    assert documents["events"][0]["payload"]["object"] == "event"
    for name in ("organizations", "users", "memberships", "subscriptions", "payments", "emails", "timers"):
        assert documents[name], name
    assert "kim@example.com" not in everything
    assert path.name not in everything

    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    assert await rig.exporter.turn(0)
    assert rig.archives() == []
    (row,) = await rig.rows("SELECT status, location FROM billing.exports")
    assert row == {"status": "deleted", "location": None}


async def test_B6_an_export_is_kept_no_longer_than_the_data_would_be(rig: ErasureKit, make: StripeEvents) -> None:
    """Also if a new subscription stopped the erasure of the data."""
    await rig.process(*history(make), left(make))
    assert await rig.exporter.turn(0)
    rig.now[0] = at(GONE)
    assert await rig.exporter.turn(0)
    assert rig.archives() == []


async def test_B6_an_archive_written_during_the_erasure_is_deleted(rig: ErasureKit, make: StripeEvents) -> None:
    await rig.process(*history(make), left(make))
    orders = await ExportOrders.connect(
        SecretStr(rig.url), claimer="another", application="billing-test", ahead=lambda: rig.now[0] - utc_now()
    )
    rig.now[0] = at(GONE - 60)
    (order,) = await orders.claim(1)
    rig.now[0] = at(GONE)
    await rig.process(await rig.due("erase::sub_1"))
    assert not await orders.done(order, {"bytes": 1, "sha256": ""})
    rig.folder.mkdir(exist_ok=True)
    (rig.folder / str(order.location)).write_bytes(b"left by a crash")
    assert not await rig.exporter.turn(0), "its writer may still be active"
    rig.now[0] += timedelta(minutes=30)
    assert await rig.exporter.turn(0)
    assert rig.archives() == []
    await orders.close()


async def test_D8_an_export_that_cannot_be_stored_is_retried_fails_and_can_be_requeued(
    rig: ErasureKit, make: StripeEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    await rig.process(*history(make), left(make))
    rig.folder.write_text("a file where the folder should be")
    for _ in range(8):
        assert await rig.exporter.turn(0)
        (row,) = await rig.rows("SELECT status, next_attempt_at, last_error FROM billing.exports")
        rig.now[0] = row["next_attempt_at"] + timedelta(seconds=1)
    assert row["status"] == "failed"
    assert not await rig.exporter.turn(0)
    assert row["last_error"].startswith(("FileExistsError", "NotADirectoryError"))
    monkeypatch.setenv("BILLING_DATABASE_URL", rig.url)
    monkeypatch.setenv("BILLING_KAFKA_BOOTSTRAP", "127.0.0.1:1")  # not used here
    monkeypatch.setenv("BILLING_CONFIG", str(rig.folder / "billing.toml"))  # as above

    async def billing(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner().invoke, command_line(["exports", "calls"]), arguments)

    listed = await billing("exports", "ls", "--json")
    key = orjson.loads(listed.stdout)["export_key"]
    rig.folder.unlink()
    assert (await billing("exports", "requeue", key)).stdout.split() == [key]
    await rig.rows("UPDATE billing.exports SET next_attempt_at = $1", rig.now[0])
    assert await rig.exporter.turn(0)
    (row,) = await rig.rows("SELECT status, attempts, location FROM billing.exports")
    assert (row["status"], row["attempts"]) == ("done", 0)
    assert [path.name for path in rig.archives()] == [row["location"]]
    again = await billing("exports", "requeue", key)
    assert (again.exit_code, again.stderr) == (1, f"0 requeued\nbilling exports requeue: not a failed export: {key}\n")
