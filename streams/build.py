"""Identifies the build that runs, for the brake and in dead letters: different code has a different id."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ops.runtime.version import PACKAGE
from streams.rules.registry import Rule

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("analytics", "eventlog", "gateway", "ops", "recovery", "scheduler", "schemas", "sinks", "streams")
_DIGITS = 12


def build_id(rules: Mapping[str, Rule]) -> str:
    """Returns the package's version and a digest of its files and of all rules, also of rules that others add.

    One changed line gives another id, and the same files give the same one on every machine.
    """
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).rglob("*")):
            if file.suffix in (".py", ".j2"):
                digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    for type_, rule in sorted(rules.items()):
        decide = inspect.unwrap(rule.decide)
        digest.update(f"{type_}\0{getattr(decide, '__qualname__', '')}\0".encode())
        source = inspect.getsourcefile(decide)
        if source is not None:
            digest.update(Path(source).read_bytes())
    try:
        named = version(PACKAGE)
    except PackageNotFoundError:
        named = "not installed"
    return f"{named}+{digest.hexdigest()[:_DIGITS]}"
