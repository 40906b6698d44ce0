"""`billing erase` and `billing export`: what a person asks for, with a dry run that is right and a record (B6)."""

from __future__ import annotations

import asyncio
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from pydantic import SecretStr

from local.stripe.builder import Json
from recovery.privacy.erasing import Eraser, NotApplied
from recovery.privacy.exporting import export_data
from recovery.privacy.subjects import CustomerSubject, Subjects
from schemas.errors import StoreUnavailable
from schemas.ordering import guest_key
from schemas.timing import utc_now
from sinks.payloads.archive import PayloadArchive
from tests.kits.erasurekit import JANE, history, left
from tests.kits.privacykit import AT, GUEST, MAKE, Office, counts_of, purchase
from tests.kits.reconcilekit import open_kit
from tests.waiting import eventually


@pytest.fixture
async def office(kafka_bootstrap: str, database: SecretStr, topic_prefix: str, tmp_path: Path) -> AsyncIterator[Office]:
    async with open_kit(kafka_bootstrap, database, topic_prefix) as desk:
        yield Office(desk, tmp_path)


async def test_B6_a_living_customer_is_erased_as_the_dry_run_says_and_only_once_confirmed(office: Office) -> None:
    await office.send(*history(MAKE))
    before = await office.found("jane", "erasable")
    address = JANE["email"].upper()
    dry = await office.ask("erase", address, "--dry-run")
    assert await office.found("jane", "erasable") == before
    refused = await office.ask("erase", address, "--reason", "request 7", code=1)
    assert "sub_1 is running" in refused
    assert await office.found("jane", "erasable") == before

    done = await office.ask(
        "erase", address, "--reason", f"asked by {JANE['email']}", "--by", "sam", "--even-if-running"
    )

    assert counts_of(done) == counts_of(dry)
    assert {name for name, rows in counts_of(dry).items() if rows} >= {
        *("customers", "organizations", "users", "payment_methods", "emails", "dead_letters", "events"),
    }
    assert await office.found("jane", "erasable") == set()
    (noted,) = await office.rows("SELECT * FROM billing.audit_log")
    assert (noted["who"], noted["action"], noted["target"]) == ("sam", "customer.erase", "cus_1")
    assert (noted["outcome"], noted["count"]) == ("done", sum(counts_of(dry).values()))
    assert noted["reason"] == f"asked by {guest_key(JANE['email'])}"
    again = counts_of(await office.ask("erase", "cus_1", "--dry-run"))
    assert {name: rows for name, rows in again.items() if rows} == {}


async def test_B6_a_customer_who_left_is_found_by_the_user(office: Office) -> None:
    linked = MAKE.customer(metadata={"userId": "usr_7"}, **JANE)  # type: ignore[arg-type]  # the builder's keywords
    update = MAKE.event("customer.updated", linked, AT, previous={"metadata": {}})
    await office.send(*history(MAKE), update, left(MAKE, AT))
    done = await office.ask("erase", "usr_7", "--reason", "request 8")
    assert [one["who"] for one in done["erasures"]] == ["cus_1"]
    assert await office.found("jane", "erasable") == set()


async def test_B6_who_is_not_known_is_not_erased(office: Office) -> None:
    for who in ("unknown@example.com", "cus_none", "usr_none"):
        assert "no customer and no guest" in await office.ask("erase", who, "--reason", "request", code=1)
    assert await office.rows("SELECT * FROM billing.audit_log") == []


async def test_B6_two_customers_of_one_address_need_a_confirmation(office: Office) -> None:
    same = [MAKE.customer(id_, email="shared@example.com", name="Agency") for id_ in ("cus_1", "cus_2")]
    await office.send(*(MAKE.event("customer.created", one, AT) for one in same))
    refused = await office.ask("erase", "shared@example.com", "--reason", "request", code=1)
    assert "2 customers match: cus_1, cus_2" in refused
    await office.ask("erase", "shared@example.com", "--reason", "request", "--all")
    assert await office.found("shared@", "agency") == set()


async def test_B6_a_request_that_no_worker_applies_says_so(office: Office) -> None:
    await office.send(*history(MAKE), left(MAKE, AT))
    said = await office.ask("erase", "cus_1", "--reason", "request", "--wait", "0", code=3)
    assert "applied once a worker runs" in said
    await office.work()
    assert await office.found("jane", "erasable") == set()


async def test_B6_a_customer_is_not_erased_without_the_log_and_a_waiting_request_is_not_refused(office: Office) -> None:
    async with office.session() as connection:
        eraser = Eraser(connection, livemode=False, clock=utc_now, wait_s=0)
        with pytest.raises(ValueError, match="no event_log"):
            await eraser.erase(Subjects([CustomerSubject("", "cus_1")]), by="sam", reason="", even_if_running=False)
        await office.rows(
            "INSERT INTO billing.events (event_id, type, stream, received_at, applied_at, outcome) "
            "VALUES ('ers_1', 'billing.erasure', 'customers', now(), now(), 'waiting')"
        )
        with pytest.raises(NotApplied):
            await eraser._applied("cus_1", "ers_1", 0)
        await office.rows("UPDATE billing.events SET outcome = 'ignored', reason = 'it is running'")
        assert (await eraser._applied("cus_1", "ers_1", 0)).refused == "it is running"


async def test_B6_an_export_that_is_cut_off_leaves_no_file_and_says_why(office: Office, tmp_path: Path) -> None:
    await office.send(*history(MAKE))
    url = office.desk.settings.database_url

    def begun() -> list[Path]:
        return list(tmp_path.glob("*.zip"))

    async with office.session() as connection, office.session() as holder, holder.transaction():
        await holder.execute("LOCK TABLE billing.events, billing.customers IN ACCESS EXCLUSIVE MODE")
        writing = asyncio.create_task(
            export_data(
                connection,
                Subjects([CustomerSubject("", "cus_1")]),
                tmp_path,
                PayloadArchive(""),
                url=url,
                by="sam",
                reason="ticket 1",
            )
        )
        await eventually(lambda: bool(begun()), "the archive is begun")
        await holder.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        with pytest.raises(StoreUnavailable):
            await writing
    assert begun() == []
    (noted,) = await office.rows("SELECT outcome, reason FROM billing.audit_log")
    assert noted["outcome"] == "failed"
    assert noted["reason"].startswith("ticket 1; ")


def read(path: Path) -> tuple[Json, str]:
    """The manifest and the events of an archive that only its owner can read."""
    assert path.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(path) as archive:
        return orjson.loads(archive.read("manifest.json")), archive.read("json/events.json").decode()


async def test_B6_an_export_on_request_is_private_complete_and_recorded(office: Office, tmp_path: Path) -> None:
    await office.send(*history(MAKE), *purchase("cs_1", intent="pi_9", of="ch_9", email=GUEST))
    dry = await office.ask("export", "cus_1", "--dry-run")
    assert await office.rows("SELECT * FROM billing.audit_log") == []
    folder = tmp_path
    for who, needle in (("cus_1", JANE["name"]), (GUEST, "Kim Guest")):
        (one,) = (await office.ask("export", who, "--reason", "request", "--by", "sam", "--output", str(folder)))[
            "exports"
        ]
        manifest, events = read(Path(one["file"]))
        assert manifest["rows"] == one["rows"]
        assert needle in events
        assert "@" not in one["file"]
        if who == "cus_1":
            assert one["rows"] == dry["exports"][0]["rows"]
        again = await office.ask("export", who, "--reason", "again", "--output", str(folder), code=1)
        assert "File exists" in again
    noted = await office.rows("SELECT who, action, outcome FROM billing.audit_log ORDER BY entry_id")
    assert [(row["action"], row["outcome"]) for row in noted] == [
        ("customer.export", outcome) for outcome in ("done", "failed", "done", "failed")
    ]
