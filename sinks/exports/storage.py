"""Stores export archives in a local folder or any other file system of fsspec, under unguessable names."""

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
    """Size in bytes and SHA-256 of the file that was written."""

    size: int
    sha256: str


def new_name() -> str:
    """Return a random name for a new archive."""
    return f"{secrets.token_hex(24)}.zip"


class Storage:
    """One folder of archives. All methods block, and raise OSError or exceptions of the object store's library."""

    def __init__(self, place: str) -> None:
        """`place` is BILLING_EXPORTS_URL or a path.

        Raises InvalidSettings. The message omits the address, which may contain a key.
        """
        try:
            self._fs, self._root = fsspec.core.url_to_fs(place)
        except ImportError as error:
            raise InvalidSettings(f"BILLING_EXPORTS_URL: a package is missing: {error}") from None
        except ValueError:
            raise InvalidSettings("BILLING_EXPORTS_URL: fsspec does not support this address") from None
        self._is_local = isinstance(self._fs, LocalFileSystem)

    def put(self, name: str, source: IO[bytes]) -> Written:
        """Write all of `source` to the archive `name`, replacing an existing one."""
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
        """Open the archive for reading bytes. Raises FileNotFoundError."""
        return self._fs.open(self._path(name), "rb")

    def delete(self, name: str) -> None:
        """Delete the archive. Does nothing if it does not exist."""
        try:
            self._fs.rm_file(self._path(name))
        except (FileNotFoundError, NotADirectoryError):
            return

    def names(self) -> Iterator[str]:
        """Yield the names of all archives, including those that other processes wrote."""
        self._fs.invalidate_cache()  # an object store's client caches listings
        for path in self._fs.glob(f"{self._root}/*.zip"):
            yield str(path).rpartition("/")[2]

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise FileNotFoundError("not an archive name")
        return f"{self._root}/{name}"


def check_exports(settings: Settings) -> None:
    """Raise InvalidSettings if BILLING_EXPORTS_URL or BILLING_DATABASE_URL cannot be used for exports."""
    Storage(settings.exports_place)
    dsn(settings.database_url)
