"""The record contract: its files match the types, real records match it, and a breaking change fails the check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from eventlog.contract import (
    CONTRACT_VERSION,
    ContractBroken,
    Schema,
    asyncapi,
    breaking_changes,
    checked,
    sample_letter,
    schemas,
)
from local.stripe.builder import StripeEvents
from local.stripe.events import EXAMPLES, example
from ops.cli import command_line
from ops.commands.contract import FOLDER
from schemas.record import Headers, RecordHeaders, Source, decode_headers
from schemas.state import Timer
from schemas.timer import timer_event
from tests.paths import RECORDED_EVENTS

SHARED = RECORDED_EVENTS

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@cache
def validator(name: str) -> Draft202012Validator:
    """Making the schemas takes 20 ms."""
    return Draft202012Validator(schemas()[name], format_checker=Draft202012Validator.FORMAT_CHECKER)


def keeps(name: str, value: object) -> None:
    validator(name).validate(value)


def test_the_committed_files_match_the_types() -> None:
    ended = CliRunner().invoke(command_line(["contract"]), ["contract", "--check"])
    assert (ended.exit_code, ended.output) == (0, "")


def test_each_schema_is_valid() -> None:
    for schema in schemas().values():
        Draft202012Validator.check_schema(schema)


def test_all_references_of_the_document_exist() -> None:
    document = asyncapi(CONTRACT_VERSION)

    def refs(node: Any) -> Iterable[str]:
        if isinstance(node, dict):
            yield from ([node["$ref"]] if "$ref" in node else [])
            for child in node.values():
                yield from refs(child)
        elif isinstance(node, list):
            for child in node:
                yield from refs(child)

    for ref in set(refs(document)):
        if ref.startswith("#/"):
            found: Any = document
            for part in ref[2:].split("/"):
                found = found[part]
        else:
            assert (FOLDER / ref).is_file()
    used = {ref for ref in refs(document) if not ref.startswith("#")}
    assert used == {f"./{name}.schema.json" for name in schemas()}


@pytest.mark.parametrize("source", Source)
def test_headers_match_the_contract(source: Source) -> None:
    headers = RecordHeaders("evt_1", "invoice.paid", source, "", True, "", "default", NOW)
    keeps("record-headers", decode_headers(headers.encode()))


def test_dead_letter_headers_match_the_contract() -> None:
    original: Headers = RecordHeaders("evt_1", "x", Source.STRIPE, "", True, "", "", NOW).encode()
    headers = decode_headers(replace(sample_letter(), headers=original, attempts=3).encode_headers())
    keeps("record-headers", headers)
    keeps("dead-letter-headers", headers)


@pytest.mark.parametrize("type_", sorted(EXAMPLES))
def test_events_match_the_contract(type_: str) -> None:
    keeps("snapshot-event", example(type_, 1_760_000_000, StripeEvents(account="acct_1")))


def test_recorded_events_match_the_contract() -> None:
    if not SHARED.is_dir():
        pytest.skip("the recorded events are not next to this checkout (../shared/events)")
    for path in SHARED.rglob("*.json"):
        event = orjson.loads(path.read_bytes())
        if not isinstance(event.get("created"), int) and event["object"] == "event":
            continue  # Connect samples from before 2013 write numbers and booleans as text
        keeps("thin-event" if event["object"] == "v2.core.event" else "snapshot-event", event)


def test_timer_events_match_the_contract() -> None:
    timer = Timer(timer_key="t", account="acct_1", customer_id="", kind="win-back", subject="sub_1", due_at=NOW)
    keeps("timer-event", orjson.loads(orjson.dumps(timer_event(timer))))
    keeps("snapshot-event", timer_event(timer))


def removed(schema: Schema) -> None:
    del schema["properties"]["account"]


def retyped(schema: Schema) -> None:
    schema["properties"]["created"]["type"] = "string"


def optional(schema: Schema) -> None:
    schema["required"].remove("livemode")


def retyped_within(schema: Schema) -> None:
    schema["$defs"]["EventData"]["properties"]["object"]["type"] = "array"


def narrowed(schema: Schema) -> None:
    schema["properties"]["api_version"] = {"type": "string"}


@pytest.mark.parametrize("change", [removed, retyped, optional, retyped_within, narrowed])
def test_a_removal_needs_a_new_major_version(change: Callable[[Schema], None], tmp_path: Path) -> None:
    promise(tmp_path, "1.0.0", "1.1.0")
    changed = copy.deepcopy(schemas())
    change(changed["snapshot-event"])
    assert len(breaking_changes(schemas(), changed)) == 1
    for version in ("1.1.0", "1.2.0"):
        with pytest.raises(ContractBroken, match=r"snapshot-event"):
            checked(tmp_path, changed, version)
    assert "released/2.0.0.json" in checked(tmp_path, changed, "2.0.0")


def test_an_addition_needs_a_new_minor_version(tmp_path: Path) -> None:
    promise(tmp_path, "1.0.0")
    changed = copy.deepcopy(schemas())
    changed["record-headers"]["properties"]["tenant"] = {"type": "string"}
    changed["record-headers"]["properties"]["source"]["enum"].append("import")
    assert breaking_changes(schemas(), changed) == []
    with pytest.raises(ContractBroken, match="new minor version"):
        checked(tmp_path, changed, "1.0.0")
    assert "released/1.1.0.json" in checked(tmp_path, changed, "1.1.0")


def test_a_schema_cannot_be_removed(tmp_path: Path) -> None:
    promise(tmp_path, "1.0.0")
    rest = {name: schema for name, schema in schemas().items() if name != "thin-event"}
    with pytest.raises(ContractBroken, match="thin-event: removed"):
        checked(tmp_path, rest, "1.1.0")


def test_the_command_writes_and_checks(tmp_path: Path) -> None:
    run = CliRunner()
    app = command_line(["contract"])
    assert run.invoke(app, ["contract", "--check", "--dir", str(tmp_path)]).exit_code == 1
    assert run.invoke(app, ["contract", "--write", "--dir", str(tmp_path)]).exit_code == 0
    assert run.invoke(app, ["contract", "--check", "--dir", str(tmp_path)]).exit_code == 0
    shown = run.invoke(app, ["contract", "--dir", str(tmp_path)])
    assert orjson.loads(shown.stdout)["asyncapi"] == "3.0.0"


def promise(folder: Path, *versions: str) -> None:
    for version in versions:
        for name, text in checked(folder, schemas(), version).items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(text)
