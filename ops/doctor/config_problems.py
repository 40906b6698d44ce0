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

from console.app import check_settings as check_console
from console.app import check_token
from gateway.clients import networks
from gateway.endpoints import webhook_endpoints
from ops.processes.dispatcher import check_portal_links, check_public_url, mail_server
from ops.processes.gateway import portal_key
from schemas.environment import InvalidEnvironment, secrets_from_files, unknown_variables
from schemas.errors import BillingError
from schemas.feed_secrets import feed_secrets
from schemas.plugin_registry import UnusablePlugin, install, load
from schemas.settings import Config, InvalidSettings, Settings, load_settings, secret_variables, variables
from sinks.email.addresses import UnusableAddress
from sinks.email.message import Composer
from sinks.email.template_check import UnusableTemplates, check_templates
from sinks.exports.storage import check_exports
from sinks.stripe_api.key import parse_base, parse_key

ENVIRONMENT = "environment"
EXAMPLE = "config.example.toml shows each key with its values"
_MOST_ROUNDS = 50
"""Each round leaves out at least one part of the file, so this is never reached by a file that people write."""

Place = tuple[str, ...]
"""A key of the file with its tables."""


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


def problems_of_file(path: Path, settings: Settings | None = None) -> list[Problem]:
    """Returns what is wrong with a config, in the order of its checks; [] if every process would take it.

    With `settings`, which are valid by themselves, also what processes refuse of them when they start.
    """
    try:
        given = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        return [Problem(str(path), "", "no such file", "copy config.example.toml")]
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(path), "", getattr(error, "strerror", None) or "not UTF-8 text", "make it readable")]
    except RecursionError:
        return [Problem(str(path), "", "not TOML: nested too deeply", "correct it")]
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
    config, invalid, left_out = _validated(given, path)
    found += invalid
    if config is not None:
        used = [*_uses(config), *(_starts(settings, config) if settings is not None else ())]
        found += [
            Problem(ENVIRONMENT if key.startswith("BILLING_") else str(path), key, text, remedy)
            for key, text, remedy in used
            if not any(f"{'.'.join(place)}.".startswith(f"{key}.") for place in left_out)  # its part was wrong before
        ]
    return list(dict.fromkeys(found))


def valid_settings() -> Settings | None:
    """Returns the settings of the environment, None if one is not valid: problems_of_environment reports it."""
    try:
        return load_settings()
    except InvalidSettings:
        return None


def _validated(given: dict[str, Any], path: Path) -> tuple[Config | None, list[Problem], set[Place]]:
    """Returns the config of the parts that are valid, the problems of the others, and the places that it lacks."""
    found: list[Problem] = []
    left_out: set[Place] = set()
    for _ in range(_MOST_ROUNDS):
        config, errors = _tried_config(given, path)
        if config is not None:
            return config, found, left_out
        places = [_place(one) for one in errors]
        for place, one in zip(places, errors, strict=True):
            if one["type"] != "missing" or place not in left_out:  # else it was wrong, and is reported
                found.append(Problem(str(path), ".".join(place), _message(one), _remedy(one)))
        # Without a required key its table is no table. A rule over several tables holds without one of them.
        missing = [one["type"] == "missing" for one in errors]
        wrong = [place[:-1] if lacks else place for place, lacks in zip(places, missing, strict=True)]
        if () in places:
            message = _message(errors[places.index(())])
            wrong += [(name,) for name in given if not _says(_without(given, [(name,)]), path, message)][:1]
        left_out |= {*wrong, *places} - {()}
        rest = _without(given, [place for place in wrong if place])
        if rest == given:
            break
        given = rest
    return None, found, left_out


def _tried_config(given: dict[str, Any], path: Path) -> tuple[Config | None, list[Mapping[str, Any]]]:
    try:
        return Config.model_validate(given, context={"folder": path.absolute().parent}), []
    except ValidationError as error:
        return None, [*error.errors(include_input=False, include_url=False)]


def _place(error: Mapping[str, Any]) -> Place:
    return tuple(str(part) for part in error["loc"])


def _says(given: dict[str, Any], path: Path, message: str) -> bool:
    """Whether this content breaks the rule over several tables that has this message."""
    return any(not one["loc"] and _message(one) == message for one in _tried_config(given, path)[1])


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


def _starts(settings: Settings, config: Config) -> Iterator[tuple[str, str, str]]:
    """Yields key, problem and remedy of what processes refuse when they start."""
    checks: dict[str, Callable[[], object]] = {
        "BILLING_SMTP_URL": partial(mail_server, settings),
        "mail.customer_portal": partial(check_portal_links, settings, config),
        "BILLING_PUBLIC_URL": partial(check_public_url, settings, config),
        "BILLING_STRIPE_API_BASE": partial(parse_base, settings.stripe_api_base),
        "BILLING_EXPORTS_URL": partial(check_exports, settings),
        "console": partial(check_console, settings, config),
        "BILLING_CONSOLE_TOKEN": partial(check_token, settings),
    }
    if settings.stripe_api_key is not None:
        checks["BILLING_STRIPE_API_KEY"] = partial(parse_key, settings.stripe_api_key, mode=config.mode)
    if config.mail.customer_portal:
        checks["BILLING_PORTAL_API_KEY"] = partial(portal_key, settings, config)
    for key, check in checks.items():
        for name, text, remedy in _tried(key, check, "correct it: docs/operations.md"):
            variable, separator, rest = text.partition(": ")  # a check may be about several variables
            yield (variable, rest, remedy) if separator and variable.startswith("BILLING_") else (name, text, remedy)


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


def _without(given: dict[str, Any], places: list[Place]) -> dict[str, Any]:
    """Returns the file's content without these keys; without the whole key, if the place is inside of a list."""
    left = dict(given)
    for first, *rest in places:
        value = left.get(first)
        if rest and isinstance(value, dict) and rest[0] in value:
            left[first] = _without(value, [tuple(rest)])
        else:
            left.pop(first, None)
    return left
