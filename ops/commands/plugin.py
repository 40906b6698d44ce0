"""`billing plugin ls|test`: the packages that add rules, mails and handlers (behaviours.md F5)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from local.plugin_check import PluginFailed, check_plugin
from ops.commands.terminal import Column, exits, refuse, say, say_json, show_rows
from schemas.plugin import Plugin
from schemas.plugin_registry import UnusablePlugin, installed, load
from schemas.settings import Config, load_config

app = typer.Typer(help="List the plugins of the config, and test one.", no_args_is_help=True)

_ConfigFile = Annotated[Path | None, typer.Option(envvar="BILLING_CONFIG", help="The TOML file.", exists=True)]


@app.command("ls")
def ls(
    config: _ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List the plugins of the config with what they add.

    Example: billing plugin ls --config config.toml

    Exits 2 if one of them cannot be used.
    """
    with exits("plugin ls"):
        _read(config)
        rows = [_described(plugin) for plugin in installed()]
    if as_json:
        for row in rows:
            say_json(row)
        return
    columns = [Column(name) for name in ("plugin", "rules", "mails", "notifications", "handlers", "own_events")]
    show_rows(columns, [[_text(row[str(column.name)]) for column in columns] for row in rows])


@app.command("test")
def run_tests(
    name: Annotated[str, typer.Argument(help="The plugin's name: that of its entry point.")],
    config: _ConfigFile = None,
) -> None:
    """Run the tests that every plugin has to pass: pure rules, repeats, every order of arrival, mails.

    Example: billing plugin test acme

    Exits 1 if one fails, 2 if the plugin cannot be loaded.
    """
    with exits("plugin test", no=(PluginFailed,)):
        settings = _read(config)
        try:
            (plugin,) = [one for one in installed() if one.name == name] or load([name])
        except UnusablePlugin as error:
            refuse("plugin test", error)
        check_plugin(plugin, settings, say)
    say(f"{name} passes")


def _read(path: Path | None) -> Config:
    return load_config(path) if path is not None else Config()


def _described(plugin: Plugin) -> dict[str, object]:
    return {
        "plugin": plugin.name,
        "rules": [rule.type for rule in plugin.rules],
        "mails": list(plugin.mails),
        "notifications": list(plugin.notifications),
        "handlers": [handler.destination for handler in plugin.handlers],
        "own_events": list(plugin.own_events),
    }


def _text(value: object) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
