"""Identifies the build that runs, for the brake and in dead letters: different code has a different id."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import TYPE_CHECKING

from ops.runtime.version import PACKAGE
from schemas.plugin_registry import GROUP
from streams.rules.registry import Rule

if TYPE_CHECKING:
    from schemas.plugin import Plugin

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("analytics", "eventlog", "gateway", "ops", "recovery", "scheduler", "schemas", "sinks", "streams")
_CODE = (".py", ".j2")
_DIGITS = 12


def build_id(rules: Mapping[str, Rule], plugins: Sequence[Plugin] = ()) -> str:
    """Returns the package's version and a digest of its files, of all rules, also of others, and of the plugins.

    One changed line gives another id, also in a plugin or in its mails, and so does another version of a plugin. The
    same files give the same id on every machine.
    """
    digest = hashlib.sha256()
    for package in _PACKAGES:
        for file in _code_in(_ROOT / package):
            digest.update(file.relative_to(_ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    for type_, rule in sorted(rules.items()):
        decide = inspect.unwrap(rule.decide)
        digest.update(f"{type_}\0{getattr(decide, '__qualname__', '')}\0".encode())
        source = inspect.getsourcefile(decide)
        if source is not None:
            digest.update(Path(source).read_bytes())
    for plugin in sorted(plugins, key=lambda one: one.name):
        digest.update(f"{plugin.name}\0{_versions(plugin.name)}\0".encode())
        for named, file in _files_of(plugin):
            digest.update(named.encode() + b"\0" + file.read_bytes())
    try:
        named = version(PACKAGE)
    except PackageNotFoundError:
        named = "not installed"
    return f"{named}+{digest.hexdigest()[:_DIGITS]}"


def _versions(name: str) -> str:
    """Returns the versions of the distributions that offer the plugin: one, or none if it is not installed as one."""
    return ",".join(one.dist.version for one in entry_points(group=GROUP, name=name) if one.dist is not None)


def _files_of(plugin: Plugin) -> Iterator[tuple[str, Path]]:
    """Yields the files of the packages that its functions and models are from, and of its mails, with stable names."""
    parts: list[object] = [part for rule in plugin.rules for part in (rule.decide, rule.refer, rule.model)]
    parts += [mail.model for mail in plugin.mails.values()] + [handler.handle for handler in plugin.handlers]
    modules = {_function_of(part).__module__ for part in parts} - {None}
    files = {Path(file) for module in modules if (file := getattr(sys.modules.get(module), "__file__", None))}
    homes = {_home(file) for file in files} - {_ROOT / package for package in _PACKAGES}
    folders = sorted(homes, key=lambda home: (home.name, home)) + ([plugin.templates] if plugin.templates else [])
    for home in folders:
        for file in _code_in(home) if home.is_dir() else [home]:
            yield f"{home.name}/{file.relative_to(home).as_posix()}", file


def _function_of(part: object) -> object:
    """Returns the function itself of a partial or decorated one, and anything else as it is."""
    while isinstance(part, partial):
        part = part.func
    return inspect.unwrap(part) if callable(part) else part


def _home(source: Path) -> Path:
    """Returns the outermost package around a module, or the module's file if it is in none."""
    home = source
    while (home.parent / "__init__.py").exists():
        home = home.parent
    return home


def _code_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.suffix in _CODE)
