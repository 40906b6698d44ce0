"""The archive's files: durable when `keep` returns, private, read by place, deleted by day."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest

from schemas.payloads import ArchiveAway, PayloadLost
from schemas.settings import InvalidSettings
from sinks.payloads.archive import PayloadArchive
from tests.paths import ROOT

HOME = "7b1f9a52-3c1e-4f0e-9a63-0d5b7c0a51aa"
DAY = date(2026, 11, 28)
PAYLOADS = [("evt_1", '{"a": "é"}'), ("evt_2", "[]"), ("evt_3", '{"b": 1}')]


def files_in(folder: Path) -> list[Path]:
    return list(folder.rglob("*.jsonl"))


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_each_payload_is_read_back_from_its_place(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path / "deep" / "payloads"))
    kept = await archive.keep(HOME, DAY, PAYLOADS)
    assert [(one.event_id, await archive.read(one.event_id, one.place, one.key)) for one in kept] == PAYLOADS
    made = [tmp_path / "deep", *(tmp_path / "deep").rglob("*")]
    assert len(made) == 5
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
    (kept, *_) = await archive.keep(HOME, DAY, PAYLOADS)
    root = tmp_path / "payloads"
    name = kept.place.partition(":")[0]
    assert synced[0] == str(root / name)
    assert set(synced[1:]) == {str(root / HOME / "2026-11-28"), str(root / HOME), str(root), str(tmp_path)}
    synced.clear()
    (kept, *_) = await archive.keep(HOME, DAY, PAYLOADS)
    assert set(synced[1:]) == {str(root / HOME / "2026-11-28"), str(root / HOME), str(root)}, "another's new folder"


OUTSIDE = f"../2026-11-28/{'0' * 32}.jsonl:0:5"


@pytest.mark.parametrize("place", ["../x:0:5", "/etc/passwd:0:5", "a/2026-11-28/x.jsonl:0:5", OUTSIDE, "", "a:b:c"])
async def test_a_place_leads_nowhere_else(tmp_path: Path, place: str) -> None:
    with pytest.raises(ArchiveAway):
        await PayloadArchive(str(tmp_path)).read("evt_1", place, b"")


async def test_a_missing_file_and_no_address_are_named(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path))
    (kept, *_) = await archive.keep(HOME, DAY, PAYLOADS)
    await archive.take_back([kept])
    assert files_in(tmp_path) == []
    await archive.take_back([kept])
    with pytest.raises(PayloadLost, match="2026-11-28/"):
        await archive.read("evt_1", kept.place, kept.key)
    with pytest.raises(ArchiveAway, match="no payloads of this database") as raised:  # a volume that is not mounted
        await PayloadArchive(str(tmp_path / "elsewhere")).read("evt_1", kept.place, kept.key)
    assert not isinstance(raised.value, PayloadLost)
    assert not PayloadArchive("").is_on
    with pytest.raises(ArchiveAway, match="BILLING_PAYLOADS_URL is not set"):
        await PayloadArchive("").read("evt_1", kept.place, kept.key)


async def test_a_full_or_missing_disk_is_named_without_the_address(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiveAway, match=r"\(BILLING_PAYLOADS_URL\): Not a directory") as raised:
        await PayloadArchive(str(tmp_path / "file" / "key=hunter2")).keep(HOME, DAY, PAYLOADS)
    assert "hunter2" not in str(raised.value)


async def test_only_own_files_of_earlier_days_are_deleted(tmp_path: Path) -> None:
    archive = PayloadArchive(str(tmp_path))
    for day in (27, 28, 29):
        await archive.keep(HOME, date(2026, 11, day), PAYLOADS)
    others = [
        tmp_path / "2020-01-01" / "books.xlsx",
        tmp_path / HOME / "2020-01-01" / "notes.jsonl",
        tmp_path / HOME / "notes" / f"{'0' * 32}.jsonl",
        tmp_path / "another-database" / "2020-01-01" / f"{'0' * 32}.jsonl",
    ]
    for path in others:
        path.parent.mkdir(parents=True)
        path.touch()
    (tmp_path / HOME / "2020-01-02").touch()
    assert await archive.delete_before(HOME, DAY) == 1
    assert [path for path in others if not path.exists()] == []
    assert names_in(tmp_path / HOME) == {"2020-01-01", "2020-01-02", "2026-11-28", "2026-11-29", "notes"}
    assert await PayloadArchive(str(tmp_path / "none")).delete_before(HOME, DAY) == 0


_FILLS_A_DISK = """
import asyncio, resource, signal, sys
from datetime import date
from sinks.payloads.archive import PayloadArchive
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
asyncio.run(PayloadArchive(sys.argv[1]).keep("db", date(2026, 11, 28), [("evt_1", "{}"), ("evt_2", "[]")]))
"""


def test_nothing_is_left_of_a_file_that_the_disk_has_no_room_for(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _FILLS_A_DISK, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "ArchiveAway: the archive of payloads (BILLING_PAYLOADS_URL): File too large" in done.stderr
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("url", ["memory://payloads", "payloads", "./payloads", "file://payloads", "local:payloads"])
def test_an_address_that_another_process_does_not_reach_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="BILLING_PAYLOADS_URL"):
        PayloadArchive(url)


def test_an_address_that_cannot_be_used_is_refused_without_it() -> None:
    with pytest.raises(InvalidSettings, match="BILLING_PAYLOADS_URL") as raised:
        PayloadArchive("nosuch://user:hunter2@host/x")
    assert "hunter2" not in str(raised.value)
