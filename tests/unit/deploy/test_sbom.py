"""`make sbom`: each pinned package with its version, hashes, licence and what needs it."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

LOCK = """\
aiohttp==3.14.5 \\
    --hash=sha256:{a} \\
    --hash=sha256:{b}
    # via billing-stream (pyproject.toml)
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:{a}
    # via
    #   -c requirements-dev.lock
    #   aiohttp
    #   click
click==8.3.3 \\
    --hash=sha256:{b}
    # via billing-stream (pyproject.toml)
""".format(a="a" * 64, b="b" * 64)


def _module() -> Any:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / "deploy" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sbom"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


sbom = _module()


def test_a_lock_file_is_read_whole() -> None:
    found = {package.name: package for package in sbom.packages(LOCK)}
    assert list(found) == ["aiohttp", "colorama", "click"]
    assert found["aiohttp"].hashes == ["a" * 64, "b" * 64]
    assert found["colorama"].marker == "sys_platform == 'win32'"
    assert found["colorama"].wanted_by == ["aiohttp", "click"]
    with pytest.raises(ValueError, match="not understood"):
        list(sbom.packages(LOCK + "-e .\n"))


def test_the_bill_says_what_needs_what_and_is_the_same_each_time() -> None:
    bill = sbom.bill(LOCK, "1.2.3")
    assert bill == sbom.bill(LOCK, "1.2.3")
    needs = {each["ref"]: each["dependsOn"] for each in bill["dependencies"]}
    assert needs["pkg:pypi/billing-stream@1.2.3"] == ["pkg:pypi/aiohttp@3.14.5", "pkg:pypi/click@8.3.3"]
    assert needs["pkg:pypi/aiohttp@3.14.5"] == ["pkg:pypi/colorama@0.4.6"]
    assert needs["pkg:pypi/colorama@0.4.6"] == []


def test_every_package_of_the_image_is_listed_with_its_licence(tmp_path: Path) -> None:
    sbom.main(tmp_path)
    bill = json.loads((tmp_path / "sbom.cdx.json").read_text())
    pins = re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert [(each["name"], each["version"]) for each in bill["components"]] == pins
    assert all(each["externalReferences"][0]["hashes"] for each in bill["components"])
    refs = [each["bom-ref"] for each in bill["components"]]
    assert len(refs) == len(set(refs))
    assert {each["ref"] for each in bill["dependencies"]} == {*refs, bill["metadata"]["component"]["bom-ref"]}
    unknown = [line for line in (tmp_path / "licenses.txt").read_text().splitlines() if line.endswith(": unknown")]
    assert [line.split()[0] for line in unknown] in ([], ["colorama"]), "colorama is for Windows only"
