"""The disk of the chaos runs is full when it is told to be, for every process, and what is on it stays."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.chaos.small_disk import NoSmallDisk, small_disk


def test_what_is_full_takes_nothing_more_until_there_is_room(tmp_path: Path) -> None:
    try:
        with small_disk(tmp_path / "disk") as disk:
            kept, more = disk.folder / "kept", disk.folder / "more"
            kept.write_bytes(b"x" * 100_000)
            disk.fill()
            with pytest.raises(OSError, match="No space left") as full:
                more.write_bytes(b"x" * 100_000)
            assert full.value.errno == errno.ENOSPC
            disk.free()
            more.write_bytes(b"x" * 100_000)
            assert kept.read_bytes() == more.read_bytes()
    except NoSmallDisk as error:
        pytest.skip(str(error))
    assert list((tmp_path / "disk").iterdir()) == []
