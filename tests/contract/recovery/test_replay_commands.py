"""The commands that operators use to find, explain and replay events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from ops.cli import command_line
from sinks.postgres.audit_log import AuditEntry
from sinks.postgres.dead_letter_index import LetterFilter
from tests.kits.replaykit import ReplayKit, open_kit


@pytest.fixture
async def rig(kafka_bootstrap: str, migrated_url: str, topic_prefix: str, tmp_path: Path) -> AsyncIterator[ReplayKit]:
    (tmp_path / "config.toml").write_text("")
    settings = {"config_path": tmp_path / "config.toml", "state_dir": tmp_path}
    async with open_kit(kafka_bootstrap, migrated_url, topic_prefix, settings) as made:
        yield made


class Billing:
    """The command line, run in a thread because it runs its own event loop."""

    def __init__(self, rig: ReplayKit) -> None:
        self._env = {
            "BILLING_KAFKA_BOOTSTRAP": rig.settings.kafka_bootstrap,
            "BILLING_DATABASE_URL": rig.settings.database_url.get_secret_value(),
            "BILLING_TOPIC_PREFIX": rig.settings.topic_prefix,
            "BILLING_CONFIG": str(rig.settings.config_path),
        }
        self._app = command_line(("dead", "replay", "brake", "event"))

    async def __call__(self, *arguments: str) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        done = await asyncio.to_thread(CliRunner().invoke, self._app, list(arguments), env=self._env)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.stdout, done.stderr


async def test_the_commands_find_show_count_replay_and_discard(rig: ReplayKit) -> None:
    billing = Billing(rig)
    for n in range(4):
        rig.send(f"evt_{n}", f"u{n}", trouble="rule" if n % 2 else "bug")
    await rig.consume()

    code, out, _ = await billing("dead", "ls", "--json", "--since", "1h")
    assert (code, len(out.splitlines())) == (0, 4)
    _, out, _ = await billing("dead", "ls", "--json", "--customer", "cus_u1", "--type", "note.written")
    (found,) = map(orjson.loads, out.splitlines())
    assert (found["event_id"], found["error_class"], found["status"]) == ("evt_1", "RuleViolated", "open")
    _, out, _ = await billing("dead", "ls")
    assert "an unforeseen bug" in out

    code, out, _ = await billing("dead", "show", "evt_0", "--json")
    (shown,) = orjson.loads(out)
    assert "ZeroDivisionError" in shown["traceback"]
    assert orjson.loads(shown["value"])["id"] == "evt_0"
    place = f"{rig.settings.dead_topic}/{shown['dead_partition']}/{shown['dead_offset']}"
    code, out, _ = await billing("dead", "show", place)
    assert code == 0
    assert "evt_0" in out
    assert (await billing("dead", "show", "evt_none"))[0] == 1

    code, out, _ = await billing("dead", "replay", "--dry-run", "--json")
    found = orjson.loads(out)
    assert found.pop("rehearsal")["outcomes"] == {"ignored": 4}, "the command has no rule for notes"
    assert found == {
        "total": 4,
        "matching": 4,
        "by_error": {
            "RuleViolated: this note is not allowed": 2,
            "Unforeseen: ZeroDivisionError: an unforeseen bug": 2,
        },
    }
    assert set(await rig.statuses()) == {f"evt_{n}" for n in range(4)}

    code, out, _ = await billing("dead", "replay", "--error", "RuleViolated", "--rate", "100/s", "--by", "jane")
    assert (code, out) == (0, "2 replayed\n")
    assert (await billing("dead", "replay", "--error", "RuleViolated"))[1] == "nothing to replay\n"
    assert (await billing("dead", "replay", "--error", "RuleViolated", "--again"))[1] == "2 replayed\n"
    assert (await billing("dead", "discard"))[0] == 2, "which?"
    assert (await billing("dead", "discard", "--id", "evt_0"))[1] == "1 discarded\n"
    async with rig.letters() as index:
        entry = AuditEntry(who="sam", action="dead.discard.again")
        assert await index.discard(LetterFilter(), "sam", entry) == 1
        assert await index.discard(LetterFilter(), "sam", entry) == 0
    assert await rig.rows("SELECT count FROM billing.audit_log WHERE action = 'dead.discard.again'") == [{"count": 1}]
    assert await rig.statuses() == {
        "evt_0": ["discarded"],
        "evt_1": ["replayed"],
        "evt_2": ["discarded"],
        "evt_3": ["replayed"],
    }
    await rig.rows("UPDATE billing.dead_letters SET status = 'open' WHERE event_id = 'evt_2'")
    assert (await billing("replay", "--failed"))[1] == "1 replayed\n"
    for wrong in (("--since", "yesterday"), ("--rate", "many")):
        assert (await billing("dead", "replay", *wrong))[0] == 2


async def test_an_event_is_shown_with_its_history_and_the_next_command(rig: ReplayKit) -> None:
    billing = Billing(rig)
    rig.send("evt_0")
    rig.send("evt_1", trouble="rule")
    await rig.consume()
    await rig.replay()
    await rig.consume()

    code, out, _ = await billing("event", "evt_1", "--json")
    story = orjson.loads(out)
    place = story["event"]["on_the_log"]
    assert (code, story["event"]["outcome"], place.startswith(f"{rig.settings.events_topic}/")) == (0, "dead", True)
    assert [letter["status"] for letter in story["dead_letters"]] == ["open", "replayed"]
    assert story["next"] == ["billing dead show evt_1", "billing dead replay --id evt_1"]
    _, out, _ = await billing("event", "evt_1")
    assert "next: billing dead replay --id evt_1" in out

    await rig.rows("UPDATE billing.emails SET status = 'failed'")
    _, out, _ = await billing("event", "evt_0", "--json")
    story = orjson.loads(out)
    assert story["next"] == ["billing mail requeue note:evt_0"]
    code, _, err = await billing("event", "evt_none")
    assert (code, "billing replay evt_none" in err) == (1, True)
