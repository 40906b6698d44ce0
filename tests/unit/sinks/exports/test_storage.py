"""The storage of exports: a folder and an object store behave the same for writers and readers."""

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
    """`memory://` represents an object store: it has no folders, modes or fsync."""
    if request.param == "folder":
        yield str(tmp_path / "exports")
        return
    yield f"memory://{tmp_path.name}/exports"
    fsspec.filesystem("memory").store.clear()


def test_stored_content_is_read_back(place: str) -> None:
    """The content is complete, also when read by another Storage object."""
    name = new_name()
    written = Storage(place).put(name, io.BytesIO(DATA))
    assert written == Written(len(DATA), hashlib.sha256(DATA).hexdigest())
    with Storage(place).open(name) as file:
        assert file.read() == DATA
    assert list(Storage(place).names()) == [name]


def test_a_second_put_replaces_and_delete_removes(place: str) -> None:
    """A second delete is allowed: another dispatcher may have deleted the file already."""
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
def test_invalid_names_are_refused(place: str, name: str) -> None:
    """The gateway opens the file named in a link."""
    with pytest.raises(FileNotFoundError):
        Storage(place).open(name)


@pytest.mark.parametrize("address", ["nosuch://key:secret@bucket/x", "s4://key:secret@bucket"])
def test_an_unknown_address_is_reported_without_its_key(address: str) -> None:
    """The address may contain a key."""
    with pytest.raises(InvalidSettings, match="BILLING_EXPORTS_URL") as raised:
        Storage(address)
    assert "secret" not in str(raised.value)
