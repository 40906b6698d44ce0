"""The environment variables `BILLING_*`: secrets from files, and names that no setting has."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from schemas.errors import BillingError

PREFIX = "BILLING_"
FILE_SUFFIX = "_FILE"
CLOCK_OFFSET = "BILLING_CLOCK_OFFSET_S"
"""Variable with the seconds by which the scheduler's clock is ahead (demo and tests)."""

MAX_SECRET_BYTES = 64 * 1024

OTHER_VARIABLES = frozenset(
    {
        CLOCK_OFFSET,
        "BILLING_CONSOLE_URL",  # this and the next are printed by `billing up` for the shell that uses the system
        "BILLING_DISPATCHER_URL",
        "BILLING_GATEWAY_OPS_URL",
        "BILLING_GATEWAY_URL",
        "BILLING_MAILBOX_DIR",
        "BILLING_SCHEDULER_URL",
        "BILLING_WEBHOOK_SECRET",
        "BILLING_WORKER_URL",
        "BILLING_REBUILD_URL",  # used in commands of the runbook
        "BILLING_DRILL",  # the next four are read by the tests
        "BILLING_HISTORIES",
        "BILLING_TEST_SERVICES",
        "BILLING_TEST_SESSION",
    }
)
"""Variables with this prefix that are not settings."""

_SECRETS = re.compile(r"BILLING_WEBHOOK_SECRET(_|$)|BILLING_FEED_SECRET_")
"""Variables with the secrets of endpoints (schemas/webhook_secrets.py) and of the feed (schemas/feed_secrets.py); their
names depend on the config."""

_BY_KUBERNETES = re.compile(r"_SERVICE_(HOST|PORT(_\w+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
"""Variables that Kubernetes sets for each service, for example for one named `billing-gateway`."""


def _blank_is_none(value: object) -> object:
    return None if value == "" else value


OptionalSecret = Annotated[SecretStr | None, BeforeValidator(_blank_is_none)]
OptionalPath = Annotated[Path | None, BeforeValidator(_blank_is_none)]


class InvalidEnvironment(BillingError, ValueError):
    """A variable can't be used. The message names it, and never contains its value."""


def secrets_from_files(names: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the content of the file that `{name}_FILE` names, by name, for each of the variables that has one.

    Removes line ends after the secret. Raises InvalidEnvironment if the variable is given too, or if the file is
    missing, unreadable, empty or larger than 64 KiB.
    """
    found: dict[str, str] = {}
    for name in names:
        path = environment.get(name + FILE_SUFFIX, "")
        if not path:
            continue
        if environment.get(name):
            raise InvalidEnvironment(f"{name} and {name}{FILE_SUFFIX} are both set: keep one")
        found[name] = _read(name + FILE_SUFFIX, Path(path))
    return found


def unknown_variables(known: Iterable[str], environment: Mapping[str, str]) -> list[str]:
    """Returns one line for each `BILLING_*` variable that nothing reads, with the nearest name that is read."""
    names = sorted({*known, *OTHER_VARIABLES})
    lines: list[str] = []
    for name in sorted(environment):
        upper = name.upper()
        if not upper.startswith(PREFIX) or upper in names or _SECRETS.match(upper) or _BY_KUBERNETES.search(upper):
            continue
        near = difflib.get_close_matches(upper, names, n=1, cutoff=0.6)
        lines.append(f"{name} is not a setting and has no effect" + (f"; did you mean {near[0]}?" if near else ""))
    return lines


def _read(variable: str, path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_SECRET_BYTES + 1)
        text = content.decode().rstrip("\r\n")
    except OSError as error:
        raise InvalidEnvironment(f"{variable}: {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InvalidEnvironment(f"{variable}: {path} is not UTF-8 text") from None
    if not text:
        raise InvalidEnvironment(f"{variable}: {path} is empty")
    if len(content) > MAX_SECRET_BYTES or "\n" in text:
        raise InvalidEnvironment(f"{variable}: {path} has more than one line or {MAX_SECRET_BYTES} bytes")
    return text
