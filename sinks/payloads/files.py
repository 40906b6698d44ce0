"""Keeps sealed payloads in files: a folder per day, a file per batch, a line per event.

A file is written once, and is on the disk (fsync) or in the object store before its keys are stored. A file whose keys
were never stored, because a run was killed in between, cannot be read by anyone.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.settings import InvalidSettings

_PLACE = re.compile(r"(\d{4}-\d\d-\d\d/[0-9a-f]{32}\.jsonl):(\d{1,12}):(\d{1,12})", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class PayloadFiles:
    """One folder of files. All methods block, and raise OSError or exceptions of the object store's library."""

    def __init__(self, url: str) -> None:
        """`url` is BILLING_PAYLOADS_URL. Raises InvalidSettings, without the address, which may contain a key."""
        try:
            self._fs, self._root = fsspec.core.url_to_fs(url)
        except ImportError as error:
            raise InvalidSettings(f"BILLING_PAYLOADS_URL: a package is missing: {error}") from None
        except ValueError:
            raise InvalidSettings("BILLING_PAYLOADS_URL: fsspec does not support this address") from None
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def write(self, day: date, lines: Sequence[bytes]) -> list[str]:
        """Writes the lines to a new file of that day, and returns the place of each one when the file is durable."""
        name = f"{day.isoformat()}/{secrets.token_hex(16)}.jsonl"
        path = f"{self._root}/{name}"
        made = self._make_folder(Path(path).parent) if self._is_local else []
        with self._fs.open(path, "wb") as file:
            if self._is_local:
                os.fchmod(file.fileno(), 0o600)
            places, at = [], 0
            for line in lines:
                places.append(f"{name}:{at}:{len(line)}")
                at += file.write(line + b"\n")
            if self._is_local:
                file.flush()
                os.fsync(file.fileno())
        for folder in made:
            _sync_folder(folder)
        return places

    def read(self, place: str) -> bytes:
        """Returns the line at this place. Raises FileNotFoundError."""
        name, start, length = _parts(place)
        self._fs.invalidate_cache()
        line: bytes = self._fs.cat_file(f"{self._root}/{name}", start=start, end=start + length)
        return line

    def delete(self, place: str) -> None:
        """Deletes the file with this place. Does nothing if it does not exist."""
        try:
            self._fs.rm_file(f"{self._root}/{_parts(place)[0]}")
        except FileNotFoundError:
            return

    def delete_before(self, day: date) -> int:
        """Deletes the files of all days before this one. Returns how many days had files."""
        self._fs.invalidate_cache()  # an object store's client caches listings
        try:
            listed = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return 0
        names = [str(path).rstrip("/").rpartition("/")[2] for path in listed]
        ended = [name for name in names if _DAY.fullmatch(name) and name < day.isoformat()]
        for name in ended:
            self._fs.rm(f"{self._root}/{name}", recursive=True)
        return len(ended)

    def _make_folder(self, folder: Path) -> list[Path]:
        """Creates the folder, closed to others. Returns the folders whose entries have to be on the disk, too."""
        new = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(new):
            one.mkdir(mode=0o700, exist_ok=True)
        return list(dict.fromkeys([folder, *(one.parent for one in new)]))


def _parts(place: str) -> tuple[str, int, int]:
    found = _PLACE.fullmatch(place)
    if found is None:
        raise FileNotFoundError("not the place of an archived payload")
    return found[1], int(found[2]), int(found[3])


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
