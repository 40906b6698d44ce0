"""No module imports or reads a private name (`_name`) of another module of the project, tests included.

What others need has a public name. An attribute of an object (`world._rows`) is not a name of a module.
"""

from __future__ import annotations

import ast
import re

from tests.paths import ROOT
from tests.unit.test_file_length import python_files

PROJECT = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}

_HINT = re.compile(r"import[^\n]*[ (]_[a-zA-Z]|^\s+_\w+,$|\b(?!self\b|cls\b)\w+\._(?!_)\w", re.MULTILINE)
"""What a file with a use contains: parsing every file would take seconds."""


def private_uses(source: str) -> list[str]:
    """`line: module._name` for each private name that is imported from, or read of, a module of the project."""
    if _HINT.search(source) is None:
        return []
    tree = ast.parse(source)
    found, modules = [], set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PROJECT:
            found += [f"{node.lineno}: {node.module}.{alias.name}" for alias in node.names if _is_private(alias.name)]
            modules |= {alias.asname or alias.name for alias in node.names if _is_module(node.module, alias.name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            found += [f"{node.lineno}: {node.value.id}.{node.attr}"] if _is_private(node.attr) else []
    return sorted(found)


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _is_module(package: str, name: str) -> bool:
    place = ROOT.joinpath(*package.split("."), name)
    return place.is_dir() or place.with_suffix(".py").is_file()


def test_no_private_name_is_used_outside_its_module() -> None:
    found = {
        str(path.relative_to(ROOT)): uses for path in python_files(ROOT) if (uses := private_uses(path.read_text()))
    }
    assert found == {}


def test_a_private_name_is_found() -> None:
    source = "from streams.item import Item, _id_of\nfrom eventlog import client\nclient._merged()\nclient.producer()\n"
    assert private_uses(source) == ["1: streams.item._id_of", "3: client._merged"]
    assert private_uses("from os import _exit\nfrom eventlog import __doc__\nclient._merged()\n") == []
