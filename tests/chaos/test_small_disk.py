"""The small disk of the chaos runs: full for every process when `fill` is called, and its files stay."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.chaos.small_disk import NoSmallDisk, small_disk


def test_a_full_disk_accepts_writes_again_once_it_is_freed(tmp_path: Path) -> None:
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
