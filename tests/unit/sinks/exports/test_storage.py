"""Where exports stand: a folder or an object store, the same to whoever writes and reads them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from schemas.settings import InvalidSettings
from sinks.exports.storage import CHUNK_BYTES, Storage, Written, new_name

DATA = bytes(range(256)) * (CHUNK_BYTES // 128 + 1)


@pytest.fixture(params=["folder", "object store"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """`memory://` stands for what has no folders, modes or fsync."""
    if request.param == "folder":
        yield str(tmp_path / "exports")
        return
    yield f"memory://{tmp_path.name}/exports"
    fsspec.filesystem("memory").store.clear()


def test_what_is_put_is_what_is_read(place: str) -> None:
    """Whole, and by another process's object too."""
    name = new_name()
    written = Storage(place).put(name, io.BytesIO(DATA))
    assert written == Written(len(DATA), hashlib.sha256(DATA).hexdigest())
    with Storage(place).open(name) as file:
        assert file.read() == DATA
    assert list(Storage(place).names()) == [name]


def test_what_is_put_again_is_replaced_and_what_is_deleted_is_gone(place: str) -> None:
    """Deleting twice is no error: the second of two dispatchers finds it done."""
    storage, name = Storage(place), new_name()
    storage.put(name, io.BytesIO(b"half"))
    storage.put(name, io.BytesIO(DATA))
    with storage.open(name) as file:
        assert file.read() == DATA
    for _ in range(2):
        storage.delete(name)
    assert list(storage.names()) == []
    with pytest.raises(FileNotFoundError):
        storage.open(name)


@pytest.mark.parametrize("name", ["../secret.zip", "/etc/passwd", "a.zip", "", f"{'0' * 48}.zip/../x"])
def test_no_other_name_leads_anywhere(place: str, name: str) -> None:
    """The gateway opens what a link names."""
    with pytest.raises(FileNotFoundError):
        Storage(place).open(name)


@pytest.mark.parametrize("address", ["nosuch://key:secret@bucket/x", "s4://key:secret@bucket"])
def test_an_address_nobody_knows_is_said_without_its_key(address: str) -> None:
    """It may hold one."""
    with pytest.raises(InvalidSettings, match="BILLING_EXPORTS_URL") as raised:
        Storage(address)
    assert "secret" not in str(raised.value)
