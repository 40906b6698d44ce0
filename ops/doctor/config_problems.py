"""Finds every mistake in a config and in the environment at once, without connecting to anything.

A process ends at the first mistake that it meets. Here a part of the file that is wrong is reported and left out, and
the rest is checked as the processes check it. No value of the file or of the environment is part of a problem.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gateway.clients import networks
from gateway.endpoints import webhook_endpoints
from schemas.environment import InvalidEnvironment, secrets_from_files, unknown_variables
from schemas.errors import BillingError
from schemas.feed_secrets import feed_secrets
from schemas.plugin_registry import UnusablePlugin, install, load
from schemas.settings import Config, InvalidSettings, Settings, secret_variables, variables
from sinks.email.addresses import UnusableAddress
from sinks.email.message import Composer
from sinks.email.template_check import UnusableTemplates, check_templates

ENVIRONMENT = "environment"
EXAMPLE = "config.example.toml shows each key with its values"
_MOST_ROUNDS = 50
"""Each round leaves out at least one part of the file, so this is never reached by a file that people write."""


@dataclass(frozen=True, slots=True)
class Problem:
    """`file` is a path, or ENVIRONMENT; `key` a key of the file with its tables, or a variable."""

    file: str
    key: str
    text: str
    remedy: str
    is_warning: bool = False


def problems_of_environment(environment: Mapping[str, str] = os.environ) -> list[Problem]:
    """Returns what is wrong with `BILLING_*`, except for the config that it names."""
    found = [
        Problem(ENVIRONMENT, line.split()[0], line.split(" ", 1)[1], "remove it, or correct its name", is_warning=True)
        for line in unknown_variables(variables(), environment)
    ]
    fields = secret_variables()
    given: dict[str, Any] = {}
    for name in fields:
        try:
            texts = secrets_from_files([name], environment)
        except InvalidEnvironment as error:
            found.append(
                Problem(ENVIRONMENT, name, _after(str(error), name), "correct the file, or keep one of the two")
            )
        else:
            given |= {fields[one]: text for one, text in texts.items()}
    try:
        Settings(**given)
    except ValidationError as error:
        for one in error.errors(include_input=False, include_url=False):
            name = str(one["loc"][0]) if one["loc"] else ""
            variable = name if name.startswith("BILLING_") or not name else f"BILLING_{name.upper()}"
            remedy = "set it" if one["type"] == "missing" else "correct it: docs/operations.md"
            found.append(Problem(ENVIRONMENT, variable, _message(one), remedy))
    return found


def problems_of_file(path: Path) -> list[Problem]:
    """Returns what is wrong with a config, in the order of its checks; [] if every process would take it."""
    try:
        given = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return [Problem(str(path), "", "no such file", "copy config.example.toml")]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(path), "", getattr(error, "strerror", None) or "not UTF-8 text", "make it readable")]
    except tomllib.TOMLDecodeError as error:
        return [Problem(str(path), "", f"not TOML: {error}", "correct this line; texts need quotes")]
    found: list[Problem] = []
    if path.stat().st_mode & 0o002:
        found.append(Problem(str(path), "", "everyone may write this file", f"chmod o-w {path}"))
    names = given.get("plugins", [])
    try:
        install(load(names if isinstance(names, list) else []))
    except UnusablePlugin as error:
        found.append(Problem(str(path), "plugins", str(error), "install the package, or remove its name"))
        given = {name: value for name, value in given.items() if name != "plugins"}
    config, invalid = _validated(given, path)
    found += invalid
    if config is not None:
        found += [Problem(str(path), key, text, remedy) for key, text, remedy in _uses(config)]
    return list(dict.fromkeys(found))


def _validated(given: dict[str, Any], path: Path) -> tuple[Config | None, list[Problem]]:
    """Returns the config of the parts that are valid, and the problems of the others."""
    found: list[Problem] = []
    for _ in range(_MOST_ROUNDS):
        try:
            return Config.model_validate(given, context={"folder": path.absolute().parent}), found
        except ValidationError as error:
            errors = error.errors(include_input=False, include_url=False)
        for one in errors:
            key = ".".join(str(part) for part in one["loc"])
            found.append(Problem(str(path), key, _message(one), _remedy(one)))
        if any(not one["loc"] for one in errors):
            break  # a rule over several tables: nothing single can be left out
        given = _without(given, [tuple(one["loc"]) for one in errors])
    return None, found


def _uses(config: Config) -> Iterator[tuple[str, str, str]]:
    """Yields key, problem and remedy of what is valid by itself and that a process would refuse."""
    if not config.endpoints:
        yield "endpoints", "none is configured, so no event can be received", "add [endpoints.default]"
    for name, endpoint in config.endpoints.items():
        alone = config.model_copy(update={"endpoints": {name: endpoint}})
        remedy = "copy the signing secret of the endpoint from Stripe's dashboard into the variable"
        yield from _tried(f"endpoints.{name}", partial(webhook_endpoints, alone), remedy)
    yield from _tried(
        "trusted_proxies", lambda: networks(config.trusted_proxies, "trusted_proxies"), "write networks: 10.0.0.0/8"
    )
    for name, destination in config.feed.destinations.items():
        key = f"feed.destinations.{name}"
        yield from _tried(key, partial(feed_secrets, name, destination), "billing feed secret makes one")
    yield from _tried("mail", lambda: Composer(config.mail), "correct mail.sender, mail.operator or mail.reply_to")
    yield from _tried(
        "mail.templates", lambda: check_templates(config.mail), "billing mail preview --serve shows each change"
    )
    if not any(plan.prices for plan in config.plans.values()):
        yield "plans", "no plan has a price, so no customer would have a plan", "list the prices in [plans.NAME]"


def _tried(key: str, check: Callable[[], object], remedy: str) -> Iterator[tuple[str, str, str]]:
    try:
        check()
    except (InvalidSettings, UnusableAddress, UnusableTemplates, BillingError) as error:
        text = str(error).removeprefix("BILLING_CONFIG: ")
        yield key, _after(text, key), remedy


def _after(text: str, key: str) -> str:
    """Returns the text without the key that it begins with, which is shown beside it."""
    return text.removeprefix(key).lstrip(":. ") if text.startswith(key) else text


def _message(error: Mapping[str, Any]) -> str:
    return "is not set" if error["type"] == "missing" else str(error["msg"]).removeprefix("Value error, ")


def _remedy(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return f"add it; {EXAMPLE}"
    if error["type"] != "extra_forbidden":
        return f"correct it; {EXAMPLE}"
    *outer, name = [str(part) for part in error["loc"]]
    near = difflib.get_close_matches(name, _keys_at(outer), n=1)
    return f"did you mean {near[0]}?" if near else f"remove it; {EXAMPLE}"


def _keys_at(loc: list[str]) -> list[str]:
    """Returns the keys that the table at this place may have, [] if it is not known."""
    model: Any = Config
    for part in loc:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(part)
            model = field.annotation if field is not None else None
        elif get_args(model):
            model = get_args(model)[-1]  # the values of a dict
    while get_args(model) and not isinstance(model, type):
        model = get_args(model)[-1]
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _without(given: dict[str, Any], places: list[tuple[int | str, ...]]) -> dict[str, Any]:
    """Returns the file's content without these keys; without the whole key, if the place is inside of a list."""
    left = dict(given)
    for first, *rest in places:
        value = left.get(str(first))
        if rest and isinstance(value, dict) and str(rest[0]) in value:
            left[str(first)] = _without(value, [tuple(rest)])
        else:
            left.pop(str(first), None)
    return left
