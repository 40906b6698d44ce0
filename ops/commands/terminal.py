"""What every process does first: read its settings, or say in one line what is wrong with them and exit 2."""

from __future__ import annotations

import getpass

import typer

from ops.runtime import logs
from schemas.settings import Config, InvalidSettings, Settings, load_config, load_settings

EXIT_INVALID_SETTINGS = 2


def operator() -> str:
    """Who types: the user of this system, by name where it has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user often has no name
        return "unknown"


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
