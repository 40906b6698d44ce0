"""Keeps the plugins of this process. Tables of mails, rules and samples add those of plugins by `follow`.

A plugin is installed once, when the config that names it is read (`load_config`), before anything uses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from schemas.errors import BillingError
from schemas.plugin_names import belongs_to

if TYPE_CHECKING:
    from schemas.plugin import Plugin

GROUP = "billing_stream.plugins"
"""The group of entry points by which a package offers its plugin."""

_INSTALLED: list[Plugin] = []
_FOLLOWERS: list[Callable[[Sequence[Plugin]], None]] = []


class UnusablePlugin(BillingError):
    """A plugin cannot be used. The message is one line that names it."""


def installed() -> tuple[Plugin, ...]:
    """Returns the installed plugins, in the order of the config."""
    return tuple(_INSTALLED)


def follow(update: Callable[[Sequence[Plugin]], None]) -> None:
    """Calls `update` with the installed plugins, now and after each change."""
    _FOLLOWERS.append(update)
    update(_INSTALLED)


def install(plugins: Sequence[Plugin]) -> None:
    """Replaces the installed plugins. Raises UnusablePlugin if two use one name; then nothing changes."""
    before = list(_INSTALLED)
    _INSTALLED[:] = plugins
    try:
        _check_names(plugins)
        for update in _FOLLOWERS:
            update(_INSTALLED)
    except UnusablePlugin:
        _INSTALLED[:] = before
        for update in _FOLLOWERS:
            update(_INSTALLED)
        raise


@contextmanager
def installed_for(*plugins: Plugin) -> Iterator[None]:
    """Installs plugins for a block, for tests."""
    before = installed()
    install(plugins)
    try:
        yield
    finally:
        install(before)


def load(names: Sequence[str]) -> list[Plugin]:
    """Imports the plugins with these names and checks them. Raises UnusablePlugin."""
    from schemas.plugin import Plugin
    from schemas.purity import check_purity

    found: list[Plugin] = []
    for name in names:
        offered = list(entry_points(group=GROUP, name=name))
        if len(offered) != 1:
            there = sorted({one.name for one in entry_points(group=GROUP)})
            why = (
                f"two packages offer it: {offered[0].value}, {offered[1].value}" if offered else "no package offers it"
            )
            raise UnusablePlugin(f"plugin {name}: {why}; installed are: {', '.join(there) or 'none'}")
        try:
            plugin = offered[0].load()
        except UnusablePlugin:
            raise
        except Exception as error:  # foreign code, which can raise anything
            line = " ".join(str(error).split())
            raise UnusablePlugin(f"plugin {name}: {offered[0].value}: {type(error).__name__}: {line}") from error
        if not isinstance(plugin, Plugin) or plugin.name != name:
            raise UnusablePlugin(f"plugin {name}: {offered[0].value} is not a Plugin with that name")
        check_purity(plugin)
        found.append(plugin)
    return found


def own_event_types() -> frozenset[str]:
    """Returns the types of own events that plugins declare."""
    return frozenset(type_ for plugin in _INSTALLED for type_ in plugin.own_events)


def notification_types() -> tuple[str, ...]:
    """Returns the kinds of notifications that plugins declare."""
    return tuple(kind for plugin in _INSTALLED for kind in plugin.notifications)


def is_of_plugin(name: str) -> bool:
    """Whether a key or a kind belongs to an installed plugin."""
    return belongs_to(name, (plugin.name for plugin in _INSTALLED))


def handlers_of(type_: str) -> list[str]:
    """Returns the destinations of the handlers that want notifications of this type."""
    return [
        handler.destination
        for plugin in _INSTALLED
        for handler in plugin.handlers
        if any(fnmatchcase(type_, pattern) for pattern in handler.events)
    ]


def handler_names() -> tuple[str, ...]:
    """Returns the destinations that are handlers of plugins."""
    return tuple(handler.destination for plugin in _INSTALLED for handler in plugin.handlers)


def _check_names(plugins: Sequence[Plugin]) -> None:
    seen: dict[str, Plugin] = {}
    for plugin in plugins:
        own = {
            "plugin": [plugin.name],
            "mail": list(plugin.mails),
            "own event": plugin.own_events,
            "notification": plugin.notifications,
            "handler": [handler.destination for handler in plugin.handlers],
        }
        for what, names in own.items():
            for name in names:
                if (other := seen.setdefault(f"{what} {name}", plugin)) is not plugin or names.count(name) > 1:
                    by = f" also by {other.name}" if other is not plugin else ""
                    raise UnusablePlugin(f"plugin {plugin.name}: {what} {name} is registered twice{by}")
