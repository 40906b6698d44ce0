"""Checks that the rules of a plugin are pure, by reading the source of their modules.

A rule decides by its arguments alone, so that a replay, a rebuild and a second worker decide the same. So its module,
and what it imports of its own package, may import only the vocabulary below, and may not ask for time, chance or files.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import sys
from pathlib import Path

from schemas.plugin import Plugin
from schemas.plugin_registry import UnusablePlugin

_LIBRARY = frozenset(
    {
        *("__future__", "abc", "base64", "binascii", "collections", "copy", "dataclasses", "datetime"),
        *("decimal", "enum", "fractions", "functools", "hashlib", "html", "ipaddress", "itertools", "json", "math"),
        *("operator", "pathlib", "re", "statistics", "string", "textwrap", "types", "typing", "unicodedata"),
        *("zoneinfo", "urllib.parse", "pydantic", "typing_extensions"),
    }
)
"""`pathlib` is for the folder of mails; its calls that read files are refused below."""
_OURS = (
    "streams.rules",
    "schemas.settings.Config",
    *(
        f"schemas.{name}"
        for name in (
            *("changes", "dunning", "effects", "errors", "event", "fast_row", "feed_message", "known", "mail"),
            *("ordering", "payment_facts", "payment_match", "plans", "plugin", "references", "state", "statuses"),
            *("storable", "stripe", "timer", "version"),
        )
    ),
)
"""The vocabulary of rules. Other modules of `schemas` read the environment, files or the clock."""
_CALLS = frozenset({"input", "print", "compile", "id", "hash", "vars", "locals", "exit", "quit"})
"""Also names of variables, so only their calls are refused. `hash` of a text differs between processes."""
_NAMES = frozenset({"open", "exec", "eval", "__import__", "breakpoint", "globals", "__builtins__", "SystemExit"})
_METHODS = frozenset(
    {
        *(
            "now",
            "utcnow",
            "today",
            "uuid1",
            "uuid4",
            "urandom",
            "read_text",
            "read_bytes",
            "write_text",
            "write_bytes",
        ),
        *("urlopen", "unlink", "mkdir", "rmdir", "touch", "iterdir", "glob", "rglob", "walk", "open", "exists", "stat"),
        *("lstat", "is_file", "is_dir", "is_symlink", "readlink", "resolve", "absolute", "cwd", "home", "expanduser"),
        *("chmod", "symlink_to", "hardlink_to", "utc_now", "load_config", "environ", "getenv"),
    }
)


def check_purity(plugin: Plugin) -> None:
    """Raises UnusablePlugin with the place of the first thing that is not pure."""
    for rule in plugin.rules:
        for function, what in ((rule.decide, "the rule"), (rule.refer, "`refer`")):
            is_plain = inspect.isfunction(function) and not inspect.isasyncgenfunction(function)
            if not is_plain or inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
                raise UnusablePlugin(f"plugin {plugin.name}: {what} of {rule.type} is not a plain function")
    decided = {rule.decide.__module__ for rule in plugin.rules}
    read = {one.__module__ for rule in plugin.rules for one in (rule.refer, rule.model)}
    to_read = sorted(decided | {module for module in read if not _is_allowed(module)})
    done: set[str] = set()
    while to_read:
        name = to_read.pop()
        if name not in done:
            done.add(name)
            to_read += _check_module(plugin.name, name, name.partition(".")[0])


def _check_module(plugin: str, name: str, package: str) -> list[str]:
    """Checks one module; returns the modules of its own package that it imports."""
    file = _file_of(name)
    if file is None:
        raise UnusablePlugin(f"plugin {plugin}: {name} has no source, so its rules cannot be checked")
    own: list[str] = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if (fault := _fault(node)) is not None:
            raise UnusablePlugin(f"plugin {plugin}: {name}, line {getattr(node, 'lineno', 0)}: a rule is pure: {fault}")
        for imported in _imported(node, name, is_package=file.name == "__init__.py"):
            if imported.partition(".")[0] == package:
                own.append(imported if _file_of(imported) is not None else imported.rpartition(".")[0])
            elif not _is_allowed(imported):
                where = f"{name}, line {getattr(node, 'lineno', 0)}"
                raise UnusablePlugin(f"plugin {plugin}: {where}: a rule's module may not import {imported}")
    return [one for one in own if one]


def _fault(node: ast.AST) -> str | None:
    match node:
        case ast.Call(func=ast.Name(id=called)) if called in _CALLS:
            return f"no {called}()"
        case ast.Name(id=name) if name in _NAMES:
            return f"no {name}()"
        case ast.Attribute(attr=called) if called in _METHODS:
            return f"no .{called}"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str() as called), *_]) if (
            called in _METHODS
        ):
            return f"no .{called}"
        case ast.AsyncFunctionDef(name=called):
            return f"{called} is async; handlers belong into a module of their own"
        case ast.Global() | ast.Nonlocal():
            return "no global or nonlocal"
    return None


def _imported(node: ast.AST, module: str, *, is_package: bool) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            parents = parts[: len(parts) - node.level + is_package]
            base = ".".join([*parents, *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def _is_allowed(name: str) -> bool:
    return any(f"{name}.".startswith(f"{allowed}.") for allowed in (*_LIBRARY, *_OURS))


def _file_of(name: str) -> Path | None:
    module = sys.modules.get(name)
    if module is not None and getattr(module, "__file__", None):
        return Path(str(module.__file__))
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec is not None and spec.origin and spec.origin.endswith(".py") else None
