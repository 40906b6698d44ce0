"""Keeps sealed payloads in files: {database id}/{day}/{random}.jsonl, a file per batch, a line per event.

A file is written once, and is on the disk (fsync) or in the object store before its keys are stored. A file whose keys
were never stored, because a run was killed in between, cannot be read by anyone. Nothing is deleted that this module
has not written.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from schemas.settings import InvalidSettings

_FILE = r"[0-9a-f]{32}\.jsonl"
_PLACE = re.compile(rf"([0-9a-zA-Z-]{{1,64}}/\d{{4}}-\d\d-\d\d/{_FILE}):(\d{{1,12}}):(\d{{1,12}})", re.ASCII)
_HOME = re.compile(r"[0-9a-zA-Z-]{1,64}", re.ASCII)
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_OURS = re.compile(_FILE, re.ASCII)


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
        if isinstance(self._fs, MemoryFileSystem):
            raise InvalidSettings("BILLING_PAYLOADS_URL: memory does not outlive the process")
        if self._is_local and not _is_absolute(url):
            raise InvalidSettings("BILLING_PAYLOADS_URL: give the whole path, which is the same for all processes")

    def write(self, home: str, day: date, lines: Iterable[bytes]) -> list[str]:
        """Writes the lines to a new file of that day, and returns the place of each one when the file is durable.

        `home` is the id of the database. Nothing is left of a file that cannot be completed.
        """
        if not _HOME.fullmatch(home):
            raise ValueError("not the id of a database")
        name = f"{home}/{day.isoformat()}/{secrets.token_hex(16)}.jsonl"
        path = f"{self._root}/{name}"
        folders = self._make_folder(Path(path).parent) if self._is_local else []
        try:
            places = self._write(name, path, lines)
            for folder in folders:
                _sync_folder(folder)
        except BaseException:
            self._delete(path)
            raise
        return places

    def _write(self, name: str, path: str, lines: Iterable[bytes]) -> list[str]:
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
        return places

    def read(self, place: str) -> bytes:
        """Returns the line at this place. Raises FileNotFoundError."""
        name, start, length = _parts(place)
        self._fs.invalidate_cache()
        line: bytes = self._fs.cat_file(f"{self._root}/{name}", start=start, end=start + length)
        return line

    def has_home(self, place: str) -> bool:
        """Whether there is a folder of the database that wrote to this place. Without, no file can be read there."""
        self._fs.invalidate_cache()
        return bool(self._fs.exists(f"{self._root}/{_parts(place)[0].partition('/')[0]}"))

    def delete(self, place: str) -> None:
        """Deletes the file with this place. Does nothing if it does not exist."""
        self._delete(f"{self._root}/{_parts(place)[0]}")

    def delete_before(self, home: str, day: date) -> int:
        """Deletes this database's files of all days before this one. Returns how many days had files."""
        self._fs.invalidate_cache()  # an object store's client caches listings
        ended = 0
        for folder in self._names(home):
            if not _DAY.fullmatch(folder) or folder >= day.isoformat():
                continue
            names = self._names(f"{home}/{folder}")
            ours = [name for name in names if _OURS.fullmatch(name)]
            for name in ours:
                self._delete(f"{self._root}/{home}/{folder}/{name}")
            ended += bool(ours)
            if self._is_local and len(ours) == len(names):
                Path(f"{self._root}/{home}/{folder}").rmdir()
        return ended

    def _names(self, folder: str) -> list[str]:
        try:
            listed = self._fs.ls(f"{self._root}/{folder}", detail=False)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [str(path).rstrip("/").rpartition("/")[2] for path in listed]

    def _delete(self, path: str) -> None:
        try:
            self._fs.rm_file(path)
        except FileNotFoundError:
            return

    def _make_folder(self, folder: Path) -> list[Path]:
        """Creates the folder, closed to others. Returns the folders whose entries have to be on the disk, too.

        Those of the database and of the day always are: another process may have made them, and not synced them yet.
        """
        new = [one for one in (folder, *folder.parents) if not one.exists()]
        for one in reversed(new):
            one.mkdir(mode=0o700, exist_ok=True)
        return list(dict.fromkeys([folder, folder.parent, folder.parent.parent, *(one.parent for one in new)]))


def _is_absolute(url: str) -> bool:
    return Path(
        url.partition("://")[2] if "://" in url else url.removeprefix("file:").removeprefix("local:")
    ).is_absolute()


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
