"""What every command shares: settings or exit 2, errors as one line and an exit code, and all output.

Only this module writes to stdout and stderr, so that no control character of a stored text reaches a terminal.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

import typer

from ops.runtime.exit_codes import EXPECTED, ExitCode, exit_code_of
from ops.runtime.printable import error_line, printable, printable_lines, to_json
from schemas.database_settings import DatabaseSettings
from schemas.process_settings import SECRETS, load_log_settings, load_process_settings
from schemas.settings import Config, Settings, load_config, load_database_settings, load_settings

T = TypeVar("T")

PIPE_WIDTH = 200
"""Columns of a table that does not go to a terminal, unless COLUMNS is set."""

_GAP = 2


# -- errors and settings -------------------------------------------------------------------------------------------


def settings_or_exit(command: str) -> Settings:
    """Load the settings. Exits 2 with one line if one is missing or invalid."""
    with exits(command):
        return load_settings()


def log_or_exit(command: str) -> Settings:
    """Load the settings of a command that reads only the log. Exits 2 with one line if one is missing or invalid."""
    with exits(command):
        return load_log_settings()


def database_or_exit(command: str) -> DatabaseSettings:
    """Load only the settings of the database. Exits 2 with one line if one is missing or invalid."""
    with exits(command):
        return load_database_settings()


def settings_and_config(command: str, *, warns: bool = True) -> tuple[Settings, Config]:
    """Load settings and config, and configure logging. Exits 2 with one line if one is missing or invalid."""
    with exits(command):
        settings = load_process_settings(command) if command in SECRETS else load_settings()
        config = load_config(settings.config_path)
    start_logging(settings, command, warns=warns)
    return settings, config


def start_logging(settings: Settings, command: str = "", *, warns: bool = True) -> None:
    """Configure logging and log what is questionable about the settings of this command."""
    from ops.runtime import logs, start  # imported here because lookups do not log

    with exits(command):
        traces = start.open_traces(settings, command)
    logs.configure_logging(log_format=settings.log_format, level=settings.log_level, traces=traces)
    if warns:
        start.log_start_warnings(settings, command)


def run_or_exit(command: str, work: Callable[[], Coroutine[Any, Any, T]], *, no: tuple[type[Exception], ...] = ()) -> T:
    """Run the coroutine to its end. An expected error ends the command with one line and the error's exit code.

    `no` are further errors that mean that the answer is no (exit 1).
    """
    with exits(command, no=no):
        return asyncio.run(work())


@contextmanager
def exits(command: str, *, no: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Do for a block what `run_or_exit` does for a coroutine."""
    try:
        yield
    except no as error:
        first, *more = str(error).splitlines() or [type(error).__name__]
        error_line(command, first)
        for line in more:  # the output of a process that did not start
            note(line)
        raise typer.Exit(ExitCode.NO) from None
    except EXPECTED as error:
        fail(command, error, exit_code_of(error))


def fail(command: str, message: object, code: ExitCode = ExitCode.NO) -> NoReturn:
    """Print `billing COMMAND: message` to stderr and exit."""
    error_line(command, message)
    raise typer.Exit(code)


def refuse(command: str, message: object) -> NoReturn:
    """Print the line and exit 2: an argument is invalid."""
    fail(command, message, ExitCode.USAGE)


# -- lines ---------------------------------------------------------------------------------------------------------


def say(line: str = "") -> None:
    """Print one line to stdout."""
    typer.echo(printable(line))


def say_text(text: str) -> None:
    """Print a text to stdout. Its line breaks stay, so it must not be mixed with single lines of other meaning."""
    typer.echo(printable_lines(text))


def note(line: str) -> None:
    """Print one line to stderr, next to a result on stdout."""
    typer.echo(printable(line), err=True)


def say_json(value: Any, *, option: int | None = None) -> None:
    """Print the value as one line of JSON."""
    typer.echo(to_json(value, option=option))


def say_cut(shown: int, total: int, *, as_json: bool, option: str = "--limit") -> None:
    """Say that a list does not have all rows. With JSON the line goes to stderr, which keeps stdout parseable."""
    if shown < total:
        (note if as_json else say)(f"{shown} of {total}, {option} for more")


def write_lines(lines: Sequence[str]) -> None:
    """Write lines that `to_json` made, and flush. Raises BrokenPipeError."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def drop_output() -> None:
    """Discard what is still buffered for a closed pipe. Python flushes stdout at exit, which would print an error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


@contextmanager
def progress(label: str, *, is_shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on stderr if that is a terminal. Yields a function of the records done and their total."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    is_off = not (is_shown and sys.stderr.isatty())
    with Progress(*columns, console=Console(stderr=True), disable=is_off, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


# -- tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. No word of a cell is ever broken; a `whole` cell (a time) stays on one line, too."""

    name: str
    whole: bool = False
    right: bool = False


def width() -> int:
    """Return the width of the output in columns."""
    if is_terminal() or os.environ.get("COLUMNS", "").isdigit():
        return shutil.get_terminal_size().columns
    return PIPE_WIDTH


def show_rows(columns: Sequence[Column], rows: Sequence[Sequence[object]], *, title: str = "") -> None:
    """Print rows as a table, or as one block per row if the table would be wider than the output.

    Ids and amounts are copied into other commands, so they are never broken or cut.
    """
    cells = [[_text(value) for value in row] for row in rows]
    least = [_least(column, [row[at] for row in cells]) for at, column in enumerate(columns)]
    if title:
        say(title)
    if sum(least) + _GAP * (len(columns) - 1) > width():
        for row in cells:
            show_pairs({column.name: value for column, value in zip(columns, row, strict=True)})
            say()
        return
    for line in _table(columns, least, cells):
        say(line)


def show_pairs(row: Mapping[str, object], *, title: str = "") -> None:
    """Print one record, a line per field. Empty fields are left out."""
    if title:
        say(title)
    shown = {name: text for name, value in row.items() if (text := _text(value))}
    indent = max(map(len, shown), default=0) + _GAP
    for name, text in shown.items():
        lines = _wrapped(text, max(width() - indent, 1))
        for at, line in enumerate(lines):
            say(f"{name if not at else '':<{indent}}{line}")


def _text(value: object) -> str:
    if value is None:
        return ""
    return printable(to_json(value) if isinstance(value, dict | list) else str(value))


def _least(column: Column, cells: Sequence[str]) -> int:
    """Return the width below which the column would break a word."""
    units = [unit for cell in cells for unit in ([cell] if column.whole else cell.split())]
    return max(map(_cells, [*column.name.split(), *units]), default=0)


def _table(columns: Sequence[Column], least: Sequence[int], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    natural = [max([_cells(column.name), *(_cells(row[at]) for row in rows)]) for at, column in enumerate(columns)]
    widths, free = list(least), width() - _GAP * (len(columns) - 1) - sum(least)
    for at in sorted(range(len(columns)), key=lambda at: natural[at] - least[at]):  # the last ones wrap, if any do
        more = min(natural[at] - least[at], free)
        widths[at], free = widths[at] + more, free - more
    for row in ([column.name for column in columns], *rows):
        wrapped = [_wrapped(cell, widths[at]) for at, cell in enumerate(row)]
        for number in range(max(map(len, wrapped))):
            parts = [part[number] if number < len(part) else "" for part in wrapped]
            yield (
                (" " * _GAP)
                .join(_padded(part, widths[at], right=columns[at].right) for at, part in enumerate(parts))
                .rstrip()
            )


def _wrapped(text: str, most: int) -> list[str]:
    """Break the text at blanks into lines of at most `most` columns. A longer word has a line of its own."""
    if _cells(text) <= most:
        return [text]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and _cells(longer) > most:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _cells(text: str) -> int:
    """Return how many columns the text takes: some letters take two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _padded(text: str, to: int, *, right: bool) -> str:
    blank = " " * (to - _cells(text))
    return blank + text if right else text + blank
