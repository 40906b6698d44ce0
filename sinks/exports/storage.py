"""Where archives are kept: a folder, or whatever else fsspec can write to, under names that nobody guesses."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from schemas.settings import InvalidSettings, Settings
from sinks.postgres.pool import dsn

CHUNK_BYTES = 256 * 1024

_NAME = re.compile(r"[0-9a-f]{48}\.zip", re.ASCII)


@dataclass(frozen=True, slots=True)
class Written:
    """What stands there now."""

    size: int
    sha256: str


def new_name() -> str:
    """For an archive to be."""
    return f"{secrets.token_hex(24)}.zip"


class Storage:
    """One folder. All methods block, and raise OSError or what the object store's own library raises."""

    def __init__(self, place: str) -> None:
        """`place` is BILLING_EXPORTS_URL, or a path. Raises InvalidSettings, without the address: it may hold a key."""
        try:
            self._fs, self._root = fsspec.core.url_to_fs(place)
        except ImportError as error:
            raise InvalidSettings(f"BILLING_EXPORTS_URL: a package is missing: {error}") from None
        except ValueError:
            raise InvalidSettings("BILLING_EXPORTS_URL: not an address that fsspec knows") from None
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def put(self, name: str, source: IO[bytes]) -> Written:
        """Writes all of the source; whatever stood there under this name is replaced."""
        if self._is_local:
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
        digest, size = hashlib.sha256(), 0
        with self._fs.open(self._path(name), "wb") as sink:
            while chunk := source.read(CHUNK_BYTES):
                digest.update(chunk)
                size += len(chunk)
                sink.write(chunk)
            if self._is_local:
                sink.flush()
                os.fsync(sink.fileno())
        return Written(size, digest.hexdigest())

    def open(self, name: str) -> Any:
        """A file to read the archive's bytes from. Raises FileNotFoundError."""
        return self._fs.open(self._path(name), "rb")

    def delete(self, name: str) -> None:
        """Gone, or never there."""
        try:
            self._fs.rm_file(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return

    def names(self) -> Iterator[str]:
        """Every archive in it, also those of other processes: an object store's client remembers what it listed."""
        self._fs.invalidate_cache()
        for path in self._fs.glob(f"{self._root}/*.zip"):
            yield str(path).rpartition("/")[2]

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError("not a name of ours")
        return f"{self._root}/{name}"


def check_exports(settings: Settings) -> None:
    """Raises InvalidSettings where they cannot be kept or found."""
    Storage(settings.exports_place)
    dsn(settings.database_url)
