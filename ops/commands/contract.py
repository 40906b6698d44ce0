"""`billing contract`: docs/contract/, written from the types, and checked against what was promised.

`released/VERSION.json` is never written twice: a change of the types needs another version, and one that takes away
another major version.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from eventlog.contract import CONTRACT_VERSION, Schema, breaking_changes, schemas

FOLDER = Path("docs") / "contract"
_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE

Files = dict[str, bytes]


class ContractBroken(Exception):
    """The types no longer keep what was promised; the message says where."""


def contract(
    write: Annotated[bool, typer.Option("--write", help="Write what has changed.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Say only whether the files are as they must be.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the contract is kept.")] = FOLDER,
) -> None:
    """Show the contract of the log's records as AsyncAPI, or check or write its files.

    Example: billing contract --check

    Exits 1 when a promise is broken without a new version, or a file is not as the types say.
    """
    try:
        files = checked(folder, schemas(), CONTRACT_VERSION)
    except ContractBroken as error:
        typer.echo(f"billing contract: {error}", err=True)
        raise typer.Exit(1) from None
    different = [name for name, text in files.items() if not _is(folder / name, text)]
    if write:
        for name in different:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
            typer.echo(f"written: {folder / name}")
    elif check and different:
        typer.echo(
            f"billing contract: not as the types say: {', '.join(different)}; `billing contract --write`", err=True
        )
        raise typer.Exit(1)
    elif not check:
        typer.echo(files["asyncapi.json"].decode(), nl=False)


def checked(folder: Path, current: Mapping[str, Schema], version: str) -> Files:
    """The files of this version by name. Raises ContractBroken."""
    released = {path.stem: orjson.loads(path.read_bytes()) for path in sorted((folder / "released").glob("*.json"))}
    same = released.get(version)
    if same is not None and same != orjson.loads(orjson.dumps(current)):
        broken = breaking_changes(same, current)
        what = f"a new major version: {'; '.join(broken)}" if broken else "a new minor version: something came to it"
        raise ContractBroken(
            f"the types differ from version {version}, which is released; CONTRACT_VERSION needs {what}"
        )
    for earlier, promised in released.items():
        is_same_major = earlier.partition(".")[0] == version.partition(".")[0]
        if is_same_major and (broken := breaking_changes(promised, current)):
            raise ContractBroken(f"what version {earlier} promises is broken: {'; '.join(broken)}")
    return {
        "asyncapi.json": orjson.dumps(asyncapi(version), option=_OPTIONS),
        f"released/{version}.json": orjson.dumps(current, option=_OPTIONS),
        **{f"{name}.schema.json": orjson.dumps(schema, option=_OPTIONS) for name, schema in current.items()},
    }


def asyncapi(version: str) -> dict[str, Any]:
    """The AsyncAPI 3 document; its schemas are the files beside it."""

    def message(title: str, headers: object, payload: object) -> dict[str, Any]:
        return {
            "title": title,
            "headers": headers,
            "payload": payload,
            "bindings": {"kafka": {"key": {"type": "string", "description": "What is kept in order: the customer."}}},
        }

    def schema(name: str) -> dict[str, str]:
        return {"$ref": f"./{name}.schema.json"}

    def channel(address: str, description: str, *messages: str) -> dict[str, Any]:
        return {
            "address": address,
            "description": description,
            "parameters": {"prefix": {"description": "BILLING_TOPIC_PREFIX", "default": "billing"}},
            "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        }

    events = ("snapshotEvent", "thinEvent", "timerEvent")
    headers = schema("record-headers")
    either = {"oneOf": [schema("snapshot-event"), schema("thin-event"), schema("timer-event")]}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "billing-stream",
            "version": version,
            "description": "Every event that can change a customer's billing, in one log. See README.md beside this.",
        },
        "defaultContentType": "application/json",
        "channels": {
            "events": channel("{prefix}.events", "All events, keyed by customer, delivered at least once.", *events),
            "dead": channel("{prefix}.dead", "What could not be applied: key, value, headers as they were, and why.",
                            "deadLetter"),
        },
        "operations": {
            "sendEvents": {"action": "send", "channel": {"$ref": "#/channels/events"}},
            "sendDeadLetters": {"action": "send", "channel": {"$ref": "#/channels/dead"}},
        },
        "components": {
            "messages": {
                "snapshotEvent": message("An event of Stripe's", headers, schema("snapshot-event")),
                "thinEvent": message("A thin event of Stripe's", headers, schema("thin-event")),
                "timerEvent": message("A timer that is due: source=timer", headers, schema("timer-event")),
                "deadLetter": message("An event that could not be applied",
                                      {"allOf": [headers, schema("dead-letter-headers")]}, either),
            }
        },
    }  # fmt: skip


def _is(path: Path, text: bytes) -> bool:
    return path.is_file() and path.read_bytes() == text


if __name__ == "__main__":
    typer.run(contract)
