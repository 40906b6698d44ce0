"""F5: what a plugin may do, and the one line that ends a start if it does something else."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from local.plugin_check import PluginFailed, PluginWorld, check_plugin
from schemas.effects import Announce, CallStripe, Effect, NoteStale, QueueEmail, StartTimer
from schemas.errors import RuleViolated
from schemas.mail import MAILS, CustomerMail
from schemas.plugin import AnyObject, Plugin, PluginRule
from schemas.plugin_registry import UnusablePlugin, install, installed, installed_for, load
from schemas.references import References
from schemas.settings import Config, InvalidSettings, load_config
from sinks.email.samples import SAMPLES
from streams.rules.catalog import RULES
from tests.kits.rulekit import at

PURE = """
from schemas.effects import Effect
from schemas.event import Event
from schemas.known import Known
from schemas.plugin import AnyObject, Plugin
{head}
plugin = Plugin("tried")

@plugin.on("invoice.paid", model=AnyObject)
def rule(event: Event[AnyObject], known: Known) -> list[Effect]:
    {body}
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that offers the module `tried_plugin` as the plugin `tried`."""
    info = tmp_path / "tried-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tried\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[billing_stream.plugins]\ntried = tried_plugin:plugin\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = installed()
    yield tmp_path
    install(before)
    for name in ("tried_plugin", "tried_help", "tried_rules"):
        sys.modules.pop(name, None)


def _start(site: Path, source: str) -> Config:
    (site / "tried_plugin.py").write_text(source)
    (site / "config.toml").write_text('plugins = ["tried"]\n')
    return load_config(site / "config.toml")


def test_F5_the_plugin_in_the_docs_passes(site: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()
    (source,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "Plugin(" in code]
    config = _start(site, source.replace("orbit", "tried"))
    (plugin,) = installed()
    said: list[str] = []
    check_plugin(plugin, config, said.append)
    assert "1 decisions are the same" in said[1]


def test_F5_a_plugin_of_the_config_is_installed(site: Path) -> None:
    config = _start(site, PURE.format(head="", body="return []"))
    assert config.plugins == ("tried",)
    assert [rule.plugin for rule in RULES["invoice.paid"].more] == ["tried"]
    install([])
    assert RULES["invoice.paid"].more == ()


@pytest.mark.parametrize(
    ("head", "body", "reason"),
    [
        ("import missing_package", "return []", "ModuleNotFoundError: No module named 'missing_package'"),
        ("this is no python", "return []", "SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "return []", "RuntimeError: two lines"),
        ("import time", "return []", "may not import time"),
        ("import random", "return []", "may not import random"),
        ("from os import environ", "return []", "may not import os.environ"),
        ("from sinks.postgres import store", "return []", "may not import sinks.postgres.store"),
        ("import asyncpg", "return []", "may not import asyncpg"),
        ("from datetime import datetime", "return [] if datetime.now() else []", "no .now"),
        ("", "return [open('/etc/hostname')]", "no open()"),
        ("from uuid import uuid4", "return []", "may not import uuid.uuid4"),
        ("SEEN = 0", "global SEEN; SEEN += 1; return []", "no global or nonlocal"),
        ("async def fetch() -> None: ...", "return []", "fetch is async"),
        ("from tried_help import help_me", "return []", "tried_help"),
        ("from urllib.request import Request", "return []", "may not import urllib.request.Request"),
        ("import urllib", "return []", "may not import urllib"),
        ("import builtins", "return []", "may not import builtins"),
        ("from schemas.timing import utc_now", "return []", "may not import schemas.timing.utc_now"),
        ("from schemas.settings import load_config", "return []", "may not import schemas.settings.load_config"),
        ("from schemas import environment", "return []", "may not import schemas.environment"),
        ("from schemas.plugin_registry import installed", "return []", "may not import schemas.plugin_registry"),
        ("from pathlib import Path", "return Path('x').open()", "no .open"),
        ("from pathlib import Path", "return [] if Path('x').exists() else []", "no .exists"),
        ("from pathlib import Path", "return [Path('x').stat()]", "no .stat"),
        ("from pathlib import Path", "return [Path.cwd()]", "no .cwd"),
        ("from pathlib import Path", "return [Path.home()]", "no .home"),
        ("from datetime import datetime", "return [getattr(datetime, 'now')()]", "no .now"),
        ("read = open", "return [read('/etc/hostname')]", "no open()"),
        ("", "raise SystemExit", "no SystemExit"),
        ("", "return sorted([], key=lambda one: hash(one))", "no hash()"),
    ],
)
def test_F5_a_plugin_that_breaks_a_promise_stops_the_start(site: Path, head: str, body: str, reason: str) -> None:
    (site / "tried_help.py").write_text("import socket\n\ndef help_me() -> None: ...\n")
    with pytest.raises(InvalidSettings) as caught:
        _start(site, PURE.format(head=head, body=body))
    assert reason in str(caught.value)
    assert "plugin tried" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert installed() == ()


@pytest.mark.parametrize("name", ["refer", "model"])
def test_F5_the_modules_of_refer_and_model_are_read_too(site: Path, name: str) -> None:
    """Plugin.on is given functions and classes that the module of the rule does not import itself."""
    (site / "tried_help.py").write_text(
        "import socket\nfrom schemas.plugin import AnyObject\nfrom schemas.references import References\n"
        "class model(AnyObject): ...\ndef refer(event): return References()\n"
    )
    rule = f"import tried_rules, tried_help\ntried_rules.join(tried_help.{name})\nplugin = tried_rules.plugin\n"
    (site / "tried_rules.py").write_text(
        "from schemas.plugin import AnyObject, Plugin\nplugin = Plugin('tried')\ndef rule(event, known): return []\n"
        f"def join({name}):\n    plugin.on('invoice.paid', **{{'model': AnyObject, '{name}': {name}}})(rule)\n"
    )
    with pytest.raises(InvalidSettings, match="tried_help, line 1: a rule's module may not import socket"):
        _start(site, rule)


@pytest.mark.parametrize("line", ["from urllib.parse import urlsplit", "from schemas.settings import Config"])
def test_F5_what_is_pure_may_be_imported(site: Path, line: str) -> None:
    assert _start(site, PURE.format(head=line, body="return []")).plugins == ("tried",)


def test_F5_a_generator_or_coroutine_is_no_rule(site: Path) -> None:
    with pytest.raises(InvalidSettings, match="is not a plain function"):
        _start(site, PURE.format(head="", body="yield []"))


@pytest.mark.parametrize("source", ["plugin = 1", "from schemas.plugin import Plugin\nplugin = Plugin('other')"])
def test_F5_an_entry_point_has_to_be_the_plugin_of_that_name(site: Path, source: str) -> None:
    with pytest.raises(InvalidSettings, match="is not a Plugin with that name"):
        _start(site, source)


def test_F5_no_name_is_registered_twice() -> None:
    one, other = Plugin("acme"), Plugin("acme")
    with pytest.raises(UnusablePlugin, match="plugin acme is registered twice"), installed_for(one, other):
        pass
    rule = one.on("invoice.paid", model=AnyObject)
    rule(lambda _event, _known: [])
    with pytest.raises(UnusablePlugin, match=r"two rules for invoice\.paid"):
        rule(lambda _event, _known: [])
    one.handler("crm", events=("*",))(_handle)
    with pytest.raises(UnusablePlugin, match="two handlers crm"):
        one.handler("crm", events=("*",))(_handle)
    assert installed() == ()
    assert RULES["invoice.paid"].more == ()


async def _handle(message: object) -> None:
    """Does nothing."""


@pytest.mark.parametrize("name", ["A", "acme_x", "", "x" * 30, "1a"])
def test_F5_a_plugins_name_is_a_short_word(name: str) -> None:
    with pytest.raises(UnusablePlugin):
        Plugin(name)


@pytest.mark.parametrize("kind", ["invoice.paid", "other.thing", "acme"])
def test_F5_its_own_kinds_begin_with_its_name(kind: str) -> None:
    with pytest.raises(UnusablePlugin):
        Plugin("acme", own_events=(kind,))
    with pytest.raises(UnusablePlugin):
        Plugin("acme", notifications=(kind,))


def test_F5_a_mail_needs_the_prefix_and_an_english_wording(tmp_path: Path) -> None:
    plugin = Plugin("acme", templates=tmp_path)
    with pytest.raises(UnusablePlugin, match="registered twice, or lacks acme-"):
        plugin.mail("payment-receipt", CustomerMail, {})
    with pytest.raises(UnusablePlugin, match=r"no wording en/acme-x\.j2"):
        plugin.mail("acme-x", CustomerMail, {})
    (tmp_path / "en").mkdir()
    (tmp_path / "en/acme-x.j2").write_text("{% extends layout %}{% block subject %}X{% endblock %}")
    plugin.mail("acme-x", CustomerMail, {"name": "Jane"})
    with installed_for(plugin):
        assert MAILS["acme-x"] is CustomerMail
        assert SAMPLES["acme-x"] == {"name": "Jane"}
        assert Config.model_validate({"mail": {"off": ["acme-x"]}}).mail.off == ("acme-x",)
    assert "acme-x" not in MAILS
    assert "acme-x" not in SAMPLES


@pytest.mark.parametrize(
    "effect",
    [
        NoteStale("x"),
        CallStripe(key="acme:1", method="POST", path="/v1/x", account=""),
        QueueEmail(key="welcome::sub_1", template="acme-x", account="", customer_id="cus_1"),
        Announce(type="access.changed", account="", customer_id="cus_1", subject="x"),
        StartTimer(key="acme:1", account="", customer_id="cus_1", kind="erase", subject="x", due_at=at(1)),
    ],
)
def test_F5_a_rule_may_not_order_what_belongs_to_the_project(effect: Effect) -> None:
    rule = PluginRule("invoice.paid", Plugin("acme"), AnyObject, lambda _event, _known: [], lambda _event: References())
    with pytest.raises(RuleViolated, match="plugin acme"):
        rule.check([effect])


OWN = """
from schemas.effects import Announce, Effect
from schemas.plugin import AnyObject, Plugin
KEPT: list[int] = []

def made(number: int) -> dict[str, object]:
    return {{
        "id": f"own_{{number}}", "object": "event", "type": "tried.made", "created": 1_800_000_000 + number,
        "livemode": False, "data": {{"object": {{"id": f"x_{{number}}", "customer": "cus_1"}}}},
    }}

EXAMPLES = [made(number) for number in range({count})]
plugin = Plugin("tried", own_events=("tried.made",), notifications=("tried.x",), examples=EXAMPLES)

@plugin.on("tried.made", model=AnyObject)
def rule(event, known):
    {body}
    return [Announce(type="tried.x", account="", customer_id=None, subject=str(subject), once="1")]
"""


@pytest.mark.parametrize(
    ("count", "body", "reason"),
    [
        (3, "subject = event.created", None),
        (3, "KEPT.append(1); subject = len(KEPT)", "decides differently when repeated"),
        (3, "KEPT.append(1); subject = event.created if len(KEPT) < 10 else 1", "depend on the order of arrival"),
        (0, "subject = 1", r"no example of tried\.made"),
    ],
)
def test_F5_the_test_kit_finds_what_reading_the_source_does_not(
    site: Path, count: int, body: str, reason: str | None
) -> None:
    """Rules that keep something, which decide by how often or in which order they are asked."""
    config = _start(site, OWN.format(count=count, body=body))
    (plugin,) = installed()
    if reason is None:
        check_plugin(plugin, config)
        return
    with pytest.raises(PluginFailed, match=reason):
        check_plugin(plugin, config)


TIMED = """
from datetime import timedelta
from schemas.effects import Announce, FinishTimer, StartTimer
from schemas.plugin import AnyObject, Plugin
from schemas.timer import TimerDue
from streams.rules import timers

KEY, AT = "tried.call:cus_1", 1_800_000_000

def event(number, type_, at, obj):
    return {"id": f"own_{number}", "object": "event", "type": type_, "created": at, "livemode": False,
            "data": {"object": {"id": KEY, "customer": "cus_1", **obj}}}

due = {"object": "timer", "kind": "tried.call", "subject": "cus_1", "due_at": AT + 86_400, "data": {}}
EXAMPLES = [event(1, "tried.made", AT, {}), event(2, "timer.tried.call", AT + 86_400, due)]
plugin = Plugin("tried", own_events=("tried.made",), notifications=("tried.x",), examples=EXAMPLES)

@plugin.on("tried.made", model=AnyObject)
def made(event, known):
    due_at = event.at + timedelta(days=1)
    return [StartTimer(key=KEY, account="", customer_id="cus_1", kind="tried.call", subject="cus_1", due_at=due_at)]

@plugin.on("timer.tried.call", model=TimerDue, refer=timers.refer)
def call(event, known):
    if not timers.is_due(event, known):
        return []
    return [FinishTimer(KEY), Announce(type="tried.x", account="", customer_id="cus_1", subject=event.object.subject)]
"""


def test_F5_the_event_of_a_timer_arrives_after_what_starts_the_timer(site: Path) -> None:
    """In the orders that are tried: the scheduler appends it, so it cannot be the first."""
    config = _start(site, TIMED)
    (plugin,) = installed()
    check_plugin(plugin, config)
    assert PluginWorld(config).apply(*plugin.examples).orders()["notifications"] == [("tried.x", "cus_1", "own_2")]


def test_F5_an_unknown_plugin_is_named_with_those_that_are_installed() -> None:
    with pytest.raises(UnusablePlugin, match="plugin nowhere: no package offers it"):
        load(["nowhere"])
