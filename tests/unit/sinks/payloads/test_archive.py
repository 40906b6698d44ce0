"""The archive's files: durable when `keep` returns, private, read by place, deleted by day."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path

import pytest

from schemas.settings import InvalidSettings
from sinks.payloads.archive import ArchiveAway, PayloadArchive

DAY = date(2026, 11, 28)
PAYLOADS = [("evt_1", '{"a": "é"}'), ("evt_2", "[]"), ("evt_3", '{"b": 1}')]


def files_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.jsonl"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_each_payload_is_read_back_from_its_place(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path / "deep" / "payloads"))
    kept = await archive.keep(DAY, PAYLOADS)
    assert [(one.event_id, await archive.read(one.event_id, one.place, one.key)) for one in kept] == PAYLOADS
    made = [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]
    assert len(made) == 4
    assert [path for path in made if path.stat().st_mode & 0o077] == []


async def test_the_file_and_every_new_folder_are_on_the_disk_before_a_key_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    archive = PayloadArchive(str(tmp_path / "payloads"))
    (kept, *_) = await archive.keep(DAY, PAYLOADS)
    root = tmp_path / "payloads"
    name = kept.place.partition(":")[0]
    assert synced[0] == str(root / name)
    assert set(synced[1:]) == {str(root / "2026-11-28"), str(root), str(tmp_path)}


@pytest.mark.parametrize("place", ["../secret:0:5", "/etc/passwd:0:5", "2026-11-28/x.jsonl:0:5", "", "a:b:c"])
async def test_a_place_leads_nowhere_else(tmp_path: Path, place: str) -> None:
    with pytest.raises(ArchiveAway):
        await PayloadArchive(str(tmp_path)).read("evt_1", place, b"")


async def test_a_missing_file_and_no_address_are_named(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path))
    (kept, *_) = await archive.keep(DAY, PAYLOADS)
    await archive.take_back([kept])
    assert files_in(tmp_path) == []
    await archive.take_back([kept])
    with pytest.raises(ArchiveAway, match="2026-11-28/"):
        await archive.read("evt_1", kept.place, kept.key)
    assert not PayloadArchive("").is_on
    with pytest.raises(ArchiveAway, match="BILLING_PAYLOADS_URL is not set"):
        await PayloadArchive("").read("evt_1", kept.place, kept.key)


async def test_a_full_or_missing_disk_is_named_without_the_address(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveAway, match=r"\(BILLING_PAYLOADS_URL\): Not a directory") as raised:
        await PayloadArchive(str(tmp_path / "file" / "key=hunter2")).keep(DAY, PAYLOADS)
    assert "hunter2" not in str(raised.value)


async def test_only_files_of_earlier_days_are_deleted(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path))
    for day in (27, 28, 29):
        await archive.keep(date(2026, 11, day), PAYLOADS)
    (tmp_path / "notes").mkdir()
    assert await archive.delete_before(DAY) == 1
    assert names_in(tmp_path) == {"2026-11-28", "2026-11-29", "notes"}
    assert await PayloadArchive(str(tmp_path / "none")).delete_before(DAY) == 0


def test_an_address_that_cannot_be_used_is_refused_without_it() -> None:
    with pytest.raises(InvalidSettings, match="BILLING_PAYLOADS_URL") as raised:
        PayloadArchive("nosuch://user:hunter2@host/x")
    assert "hunter2" not in str(raised.value)
