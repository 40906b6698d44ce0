"""The image and the compose file match the code: the same processes and settings, and no port is public."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from ops.cli import COMMANDS
from schemas.settings import DEFAULT_DUNNING, Config, Settings, load_config
from tests.paths import ROOT

PROCESSES = {"gateway", "worker", "dispatcher", "scheduler"}
FIRST = {"migrate", "topics"}
NOT_OURS = {"kafka", "postgres", "mailpit"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return read


def test_compose_runs_the_processes_that_billing_up_runs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == PROCESSES | FIRST | NOT_OURS
    for name in PROCESSES | FIRST:
        assert services[name]["command"] == name
        assert name in COMMANDS


def test_compose_sets_only_known_settings_and_all_required_ones(compose: dict[str, Any]) -> None:
    known = {
        field.validation_alias.choices[0] if field.validation_alias else f"BILLING_{name.upper()}"  # type: ignore[union-attr]  # the one alias is a choice
        for name, field in Settings.model_fields.items()
    }
    needed = {"BILLING_KAFKA_BOOTSTRAP", "BILLING_DATABASE_URL", "BILLING_CONFIG"}
    for name in PROCESSES | FIRST:
        given = compose["services"][name]["environment"].keys()
        assert needed <= given <= known


def test_compose_publishes_on_loopback_only_and_pins_its_images(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        assert "image" not in service or service["image"].rpartition(":")[2] not in ("", "latest")


def test_processes_wait_for_what_they_need(compose: dict[str, Any]) -> None:
    for name in PROCESSES:
        assert compose["services"][name]["depends_on"].keys() == FIRST


def test_the_image_contains_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = {line.split()[1] for line in lines if line.startswith("COPY") and "--from" not in line}
    assert packages <= copied
    assert all((ROOT / name).exists() for line in lines if line.startswith("COPY ") and "--from" not in line
               for name in line.split()[1:-1])  # fmt: skip
    assert any("--require-hashes -r requirements.lock" in line for line in lines)


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_example_config_is_valid() -> None:
    config = load_config(ROOT / "config.example.toml")
    assert isinstance(config, Config)
    assert config.plan_of_price("price_pro_yearly") == "pro"
    assert config.rules.dunning == DEFAULT_DUNNING
