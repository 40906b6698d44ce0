"""The build's id changes with the code and with nothing else (behaviours.md D5, G28)."""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from schemas.plugin import Plugin
from schemas.settings import Settings
from streams import build
from streams.rules.catalog import RULES
from tests.kits.notes import notes


def test_the_same_code_has_the_same_id() -> None:
    assert build.build_id(RULES) == build.build_id(dict(reversed(list(RULES.items()))))
    assert re.fullmatch(r"\S+\+[0-9a-f]{12}", build.build_id(RULES))


def test_one_changed_line_of_a_package_changes_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "streams" / "rules").mkdir(parents=True)
    rule = tmp_path / "streams" / "rules" / "x.py"
    rule.write_text("def on_paid(): return 1\n")
    monkeypatch.setattr(build, "_ROOT", tmp_path)
    before = build.build_id({})
    (tmp_path / "streams" / "x.pyc").write_bytes(b"compiled")
    assert build.build_id({}) == before
    rule.write_text("def on_paid(): return 2\n")
    assert build.build_id({}) != before


def test_a_rule_from_outside_the_packages_changes_the_id() -> None:
    rule = notes.rules["note.written"]

    def mended(event: Any, known: Any) -> list[Any]:
        return list[Any]()

    ids = {build.build_id(RULES), build.build_id({**RULES, **notes.rules})}
    ids.add(build.build_id({**RULES, "note.written": replace(rule, decide=mended)}))
    assert len(ids) == 3


def made_plugin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    """Writes a package with a rule, its helper and a mail, and imports its plugin."""
    package = folder / "shoplugin"
    (package / "inner").mkdir(parents=True)
    for name in ("__init__.py", "inner/__init__.py"):
        (package / name).write_text("")
    (package / "inner" / "helper.py").write_text("LIMIT = 1\n")
    (package / "inner" / "rules.py").write_text(
        "from schemas.plugin import AnyObject, Plugin\nplugin = Plugin('shop')\n\n\n"
        "@plugin.on('invoice.paid', model=AnyObject)\ndef on_paid(event, known):\n    return []\n"
    )
    (folder / "mails").mkdir()
    (folder / "mails" / "shop-hello.j2").write_text("Hello")
    monkeypatch.syspath_prepend(str(folder))
    plugin: Plugin = importlib.import_module("shoplugin.inner.rules").plugin
    return replace(plugin, templates=folder / "mails")


def test_a_change_anywhere_in_a_plugin_changes_the_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a module that only its rules import: a fixed plugin has to pass the brake, too."""
    plugin = made_plugin(tmp_path, monkeypatch)
    ids = [build.build_id({}), build.build_id({}, [plugin])]
    assert build.build_id({}, [plugin]) == ids[-1]
    for changed in (
        "shoplugin/inner/helper.py",
        "shoplugin/inner/rules.py",
        "shoplugin/__init__.py",
        "mails/shop-hello.j2",
    ):
        file = tmp_path / changed
        file.write_text(file.read_text() + "# fixed\n")
        ids.append(build.build_id({}, [plugin]))
    monkeypatch.setattr(build, "_versions", lambda name: f"{name} 2.0")
    ids.append(build.build_id({}, [plugin]))
    assert len(set(ids)) == len(ids) == 7
    (tmp_path / "not-of-the-plugin.py").write_text("")
    assert build.build_id({}, [plugin]) == ids[-1]


@pytest.mark.parametrize(
    ("given", "pauses"),
    [
        ({}, (0, 0)),
        ({"stripe_api_key": "sk_test_" + "x" * 24}, (86_400, 3_600)),
        ({"stripe_api_key": "sk_test_" + "x" * 24, "reconcile_every_s": 0, "retry_failed_every_s": 0}, (0, 0)),
        ({"reconcile_every_s": 60, "retry_failed_every_s": 5}, (60, 5)),
    ],
)
def test_G37_repairs_are_on_by_default_where_a_stripe_key_is_set(
    given: dict[str, Any], pauses: Sequence[float]
) -> None:
    url = SecretStr("postgresql://u@127.0.0.1/x")
    settings = Settings(kafka_bootstrap="127.0.0.1:9092", database_url=url, config_path=Path("c.toml"), **given)
    assert (settings.reconcile_pause_s, settings.retry_failed_pause_s) == tuple(pauses)
