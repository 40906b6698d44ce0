"""Shared by the commands: load settings or exit 2 with one line, and print text safely to a terminal."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.console import Console

from ops.runtime import logs
from ops.runtime.start import log_start_warnings
from schemas.settings import Config, InvalidSettings, Settings, load_config, load_settings

EXIT_INVALID_SETTINGS = 2


def settings_and_config() -> tuple[Settings, Config]:
    """Load settings and config, and configure logging. Exits 2 with a one-line message if one is invalid."""
    try:
        settings = load_settings()
        config = load_config(settings.config_path)
    except InvalidSettings as error:
        typer.echo(f"billing: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    logs.configure_logging(log_format=settings.log_format, level=settings.log_level)
    log_start_warnings(settings)
    return settings, config


PIPE_WIDTH = 200


def printable(text: str) -> str:
    """Replace unprintable characters: a control sequence in an event must not reach the terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def line_printer() -> Callable[[str], None]:
    """Return a function that prints one line without wrapping, to a terminal or a file."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    return console.print
