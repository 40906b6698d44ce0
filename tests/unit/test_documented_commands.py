"""Every `billing …` that the documents show is a command of this version, with options that it has.

Lines of code blocks are parsed as a shell would pass them; commands within sentences may leave out arguments.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest
import typer
from typer.core import TyperGroup

from ops.cli import COMMANDS, command_line
from tests.paths import ROOT

PAGES = sorted(
    [
        *(page for page in ROOT.glob("*.md") if page.name != "CHANGELOG.md"),  # it also names what is gone
        *(ROOT / "docs").rglob("*.md"),
        ROOT / "docs" / "alerts.yml",
        ROOT / "docker-compose.yml",
        ROOT / "config.example.toml",
        ROOT / "deploy" / "helm" / "billing-stream" / "values.yaml",
        ROOT / "deploy" / "helm" / "billing-stream" / "templates" / "NOTES.txt",
    ]
)
UsageError = cast("type[Exception]", typer.BadParameter.__base__)
_SETTING = re.compile(r"\b([A-Z][A-Z_]+)=(\S+)")
_BLOCK = re.compile(r"^\s*```\w*\n(.*?)^\s*```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+(?:\n[^`\n]+)?)`")
_BEFORE = r"(?:set -a; |[A-Z][A-Z_]*=\S* |\$ |kubectl exec \S+ -- |docker compose .*?(?:run|exec) (?:-\S+ )*)"
_LINE = re.compile(rf"^\s*{_BEFORE}*(?:operator |console (?=billing )|\S*/bin/)?(?:billing )?(.+)$")
_SHOWN = re.compile(rf"^\s*{_BEFORE}*(?:\S*/bin/)?billing (?![\w ]+[:,])\S|docker compose .*\boperator ")
_ENDS = {"|", "||", "&&", "&", ">", ">>", "2>&1", "<", ";", "then", "\\"}
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_/]*:?|.*[…|].*|\[.*|.*\]|<.*>")


@cache
def root() -> TyperGroup:
    made = typer.main.get_command(command_line())
    assert isinstance(made, TyperGroup)
    return made


def shown_lines(text: str) -> Iterator[str]:
    """Commands in code blocks, continued lines joined. Output that starts with `billing NAME:` is none."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if _SHOWN.match(line):
                yield line


def arguments(line: str) -> list[str]:
    """The words after `billing`, up to a comment, a pipe or the end of the command."""
    found = _LINE.match(line)
    assert found, line
    words: list[str] = []
    for word in shlex.split(re.split(r"\s{2,}(?![-\w./\"'=:]*\s{0,1}--)", found[1])[0], comments=True):
        if word in _ENDS or word.startswith(">"):
            break
        words.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return words


def mistake(words: list[str], *, whole: bool) -> str | None:
    """Why `billing WORDS` is no command, None if it is one. Only a `whole` command needs all its arguments."""
    command: Any = root()
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        name, *rest = words
        if (chosen := command.commands.get(name)) is None:
            if not whole and _PLACEHOLDER.fullmatch(name):
                return None
            return f"no command {name}"
        command, words = chosen, rest
    if not whole:
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        options = [word.partition("=")[0].rstrip(",.:") for word in words if word.startswith("--")]
        unknown = [each for each in options if each not in known | {"--help"} and not _PLACEHOLDER.fullmatch(each)]
        return f"no option {', '.join(unknown)}" if unknown else None
    if isinstance(command, TyperGroup) and not words:
        return None if command.invoke_without_command else "a group of commands"
    try:
        command.make_context("billing", [_example_of(word) for word in words])
    except typer.Exit:  # --help
        return None
    except UsageError as error:
        return str(error) or repr(error)
    return None


def _example_of(word: str) -> str:
    """A number for N, a file and a folder that exist for others: options check what they are given."""
    if word == "N":
        return "7"
    if re.fullmatch(r"[\w./-]+\.(toml|json|jsonl|csv)", word):
        return str(ROOT / "config.example.toml")
    return "/" if word.startswith("/") else word


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_command_of_the_page_exists(page: Path) -> None:
    text = page.read_text()
    wrong = {}
    for line in shown_lines(text):
        with patch.dict(os.environ, dict(_SETTING.findall(line))):
            if why := mistake(arguments(line), whole=True):
                wrong[line] = why
    prose = _BLOCK.sub("", text)
    for snippet in _INLINE.findall(prose):
        words = " ".join(snippet.split()).split(" ")
        if words[0] == "billing" and len(words) > 1 and (why := mistake(words[1:], whole=False)):
            wrong[snippet] = why
    assert wrong == {}


def test_a_command_that_does_not_exist_is_found() -> None:
    text = "```sh\n. .env; set +a\nFOO=1 .venv/bin/billing dead list --all | less\n```\n`billing topics`"
    (line,) = shown_lines(text)
    assert arguments(line) == ["dead", "list", "--all"]
    assert mistake(["dead", "list", "--all"], whole=True) == "no command list"
    assert "no-such" in (mistake(["status", "--no-such"], whole=True) or "")
    assert mistake(["status", "--no-such"], whole=False) == "no option --no-such"
    assert mistake(["event"], whole=True) is not None
    assert mistake(["event"], whole=False) is None
    assert mistake(["event", "evt_1"], whole=True) is None
    assert mistake(["topics", "--repartition", "N"], whole=True) is None


def test_commands_are_found_where_they_are_shown() -> None:
    lines = [line for page in PAGES for line in shown_lines(page.read_text())]
    assert len(lines) > 60
    assert {arguments(line)[0] for line in lines} - COMMANDS.keys() - {"--help"} == set()
