"""Stylesheet, script and icon: read once, compressed, and served under names that contain a digest of their content."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent / "static"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_YEAR_S = 31_536_000

FOREVER = f"public, max-age={_YEAR_S}, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """One file. `zipped` is its gzip form."""

    name: str
    content_type: str
    body: bytes
    zipped: bytes


class Assets:
    """The files of console/static by their public names."""

    def __init__(self, folder: Path = _FOLDER) -> None:
        self._by_name: dict[str, Asset] = {}
        self._names: dict[str, str] = {}
        for file in sorted(folder.iterdir()):
            if file.suffix in _TYPES:
                body = file.read_bytes()
                name = f"{file.stem}.{hashlib.sha256(body).hexdigest()[:12]}{file.suffix}"
                self._by_name[name] = Asset(name, _TYPES[file.suffix], body, gzip.compress(body, mtime=0))
                self._names[file.name] = name

    def url(self, file: str) -> str:
        """Returns the path under which a file is served. Raises KeyError."""
        return f"/static/{self._names[file]}"

    def find(self, name: str) -> Asset | None:
        """Returns the asset with this public name."""
        return self._by_name.get(name)
