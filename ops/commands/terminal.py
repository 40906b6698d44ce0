"""What every process does first: read its settings, or say in one line what is wrong with them and exit 2."""

from __future__ import annotations

from collections.abc import Callable

import typer
from rich.console import Console

from ops.runtime import logs
from schemas.settings import Config, InvalidSettings, Settings, load_config, load_settings

EXIT_INVALID_SETTINGS = 2


def settings_and_config() -> tuple[Settings, Config]:
    """Settings and config of this process, with logging set up by them. Exits 2 where one cannot be used."""
    try:
        settings = load_settings()
        config = load_config(settings.config_path)
    except InvalidSettings as error:
        typer.echo(f"billing: {error}", err=True)
        raise typer.Exit(EXIT_INVALID_SETTINGS) from None
    logs.configure_logging(log_format=settings.log_format, level=settings.log_level)
    return settings, config


PIPE_WIDTH = 200


def printable(text: str) -> str:
    """No control sequence of whoever sent an event may reach a terminal."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def line_printer() -> Callable[[str], None]:
    """Prints one line at a time, to a terminal or a file alike."""
    console = Console(highlight=False, markup=False, soft_wrap=True)
    return console.print
