"""The image and the compose file match the code: the same processes and settings, and no port is public."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from console.app import check_settings
from ops.cli import COMMANDS
from schemas.link_secrets import link_secrets
from schemas.process_settings import SECRETS
from schemas.settings import DEFAULT_DUNNING, Config, Mode, Settings, load_config, secret_variables, variables
from schemas.webhook_secrets import weakness_of
from sinks.exports.storage import Storage
from sinks.postgres.roles import ROLES
from tests.paths import ROOT

PROCESSES = {"gateway", "worker", "dispatcher", "scheduler", "console", "analytics"}
OPTIONAL = {"analytics": "analytics", "operator": "tools"}
FIRST = {"migrate", "topics"}
NOT_OURS = {"kafka", "postgres", "mailpit"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return read


def test_compose_runs_the_processes_that_billing_up_runs(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services.keys() == PROCESSES | FIRST | {"operator"} | NOT_OURS
    for name in PROCESSES | FIRST:
        assert services[name]["command"].partition(" ")[0] == name
        assert name in COMMANDS
    assert services["topics"]["command"] == "topics --warn"  # a setting of a topic stops no deployment
    optional = {name: service["profiles"] for name, service in services.items() if "profiles" in service}
    assert optional == {name: [profile] for name, profile in OPTIONAL.items()}


def test_the_operators_commands_have_every_setting_that_commands_read(compose: dict[str, Any]) -> None:
    """The header's examples and the docs run commands as `docker compose run --rm operator COMMAND`."""
    operator = compose["services"]["operator"]
    given = operator["environment"].keys()
    assert given <= variables() | {"BILLING_WEBHOOK_SECRET", "BILLING_GATEWAY_URL"}
    assert "billing_operator_login:${OPERATOR_PASSWORD:" in operator["environment"]["BILLING_DATABASE_URL"]
    assert {"BILLING_WEBHOOK_SECRET", "BILLING_GATEWAY_URL", "BILLING_STRIPE_API_KEY", "BILLING_SMTP_URL"} <= given
    assert "ports" not in operator
    pages = [(ROOT / "docker-compose.yml"), (ROOT / "README.md"), *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text() for page in pages)
    examples = re.findall(r"docker compose (?:run|exec)[^\n`]*", text)
    assert len(examples) > 3
    for example in examples:
        words = example.split()[3:]
        service = next(word for word in words if not word.startswith("-"))
        assert service in ("operator", "console"), example
        command = next(word for word in words[words.index(service) + 1 :] if word != "billing")
        assert command in COMMANDS or command == "COMMAND", example


def test_compose_sets_only_known_settings_and_all_required_ones(compose: dict[str, Any]) -> None:
    needed = {"BILLING_KAFKA_BOOTSTRAP", "BILLING_CONFIG"}
    for name in PROCESSES | FIRST:
        given = compose["services"][name]["environment"].keys()
        assert given <= variables() | {"BILLING_WEBHOOK_SECRET"}
        assert name == "migrate" or needed <= given
        assert name == "topics" or "BILLING_DATABASE_URL" in given


def test_T31_compose_gives_each_process_only_its_own_secrets(compose: dict[str, Any]) -> None:
    fields = secret_variables()
    for name in PROCESSES | {"topics"}:
        given = compose["services"][name]["environment"].keys()
        assert {fields[variable] for variable in given & fields.keys()} <= SECRETS[name]
        assert ("BILLING_WEBHOOK_SECRET" in given) == (name == "gateway")
    ours = {*PROCESSES, "migrate", "operator"}
    logins = [compose["services"][name]["environment"]["BILLING_DATABASE_URL"] for name in ours]
    assert len({login.partition(":")[2].partition("@")[0] for login in logins}) == len(logins)


def test_each_login_of_compose_is_made_in_its_role(compose: dict[str, Any]) -> None:
    made = (ROOT / "deploy" / "postgres-roles.sql").read_text()
    for name in {*PROCESSES, "operator"}:
        login, password = re.findall(
            r"//(\w+):\$\{(\w+):", compose["services"][name]["environment"]["BILLING_DATABASE_URL"]
        )[0]
        assert f"CREATE ROLE {login} LOGIN PASSWORD :'{name}' IN ROLE billing_{name};" in made
        assert f"\\getenv {name} {password}\n" in made
        assert password in compose["services"]["postgres"]["environment"]


def test_compose_passes_the_secrets_of_receivers_to_the_dispatcher_alone(compose: dict[str, Any]) -> None:
    files = {name: service["env_file"] for name, service in compose["services"].items() if "env_file" in service}
    assert files == {"dispatcher": [{"path": "${FEED_ENV:-feed.env}", "required": False}]}


def test_compose_lets_only_those_write_archives_who_do(compose: dict[str, Any]) -> None:
    mounted = {
        name: [volume.partition(":")[2] for volume in service.get("volumes", ()) if volume.startswith("exports:")]
        for name, service in compose["services"].items()
    }
    assert {name: places for name, places in mounted.items() if places} == {
        "gateway": ["/var/lib/billing:ro"],
        "dispatcher": ["/var/lib/billing"],
        "operator": ["/var/lib/billing"],
    }


def test_compose_gives_the_archive_of_payloads_to_all_who_prune_or_read_it(compose: dict[str, Any]) -> None:
    services = compose["services"]
    given = {name for name, service in services.items() if "BILLING_PAYLOADS_URL" in service.get("environment", {})}
    mounted = {
        name: volume.partition(":")[2]
        for name, service in services.items()
        for volume in service.get("volumes", ())
        if volume.startswith("payloads:")
    }
    assert given == mounted.keys()
    assert mounted == {
        "scheduler": "/var/lib/payloads",
        "operator": "/var/lib/payloads",
        "dispatcher": "/var/lib/payloads:ro",
        "console": "/var/lib/payloads:ro",
    }
    assert "payloads" in compose["volumes"]
    assert re.search(r"install -d -m 0700 -o billing .*/var/lib/payloads\b", (ROOT / "Dockerfile").read_text())


def test_the_image_can_store_exports_where_the_docs_say() -> None:
    """`s3://` needs an optional package, which is in the lock file that the image is built from."""
    pages = (ROOT / "docs" / "kubernetes.md", ROOT / "docs" / "operations.md")
    assert all("s3://" in page.read_text() for page in pages)
    pins = re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert "s3fs" in pins
    assert Storage("s3://bucket/folder")


def test_no_file_of_secrets_is_committed_or_sent_to_the_builder() -> None:
    assert "*.env" in (ROOT / ".gitignore").read_text().split()
    assert "**/*.env" in (ROOT / ".dockerignore").read_text().split()


def test_the_console_of_compose_is_reached_where_it_says(compose: dict[str, Any]) -> None:
    console = compose["services"]["console"]
    given = console["environment"]
    port = given["BILLING_CONSOLE_PORT"]
    assert console["ports"] == [f"127.0.0.1:{port}:{port}"]
    assert given["BILLING_CONSOLE_PUBLIC_URL"] == f"http://127.0.0.1:{port}"
    settings = Settings.model_construct(
        console_host=given["BILLING_CONSOLE_HOST"], console_public_url="http://127.0.0.1:8900"
    )
    check_settings(settings, load_config(ROOT / "config.example.toml"))
    watched = {part.partition("=")[0] for part in given["BILLING_CONSOLE_WATCHES"].split(",")}
    assert watched == PROCESSES - {"console"} - OPTIONAL.keys()


def test_T30_compose_has_no_secret_and_no_default_for_one(compose: dict[str, Any]) -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    used = set(re.findall(r"\$\{([A-Z_]+)", text))
    assert {name for name in used if name.endswith(("PASSWORD", "SECRET"))} == set(
        re.findall(r"\$\{([A-Z_]+):\?run sh deploy/new-env.sh\}", text)
    )
    made = (ROOT / "deploy" / "new-env.sh").read_text()
    for name in used:
        assert name in made or name.removesuffix("_PASSWORD") in made or name == "BUILD"


def test_T30_new_env_makes_other_secrets_each_time_and_keeps_a_file(tmp_path: Path) -> None:
    command = ["sh", str(ROOT / "deploy" / "new-env.sh")]
    for name in ("one", "two"):
        subprocess.run([*command, name], cwd=tmp_path, check=True, timeout=30)
    one, two = (dict(line.split("=", 1) for line in (tmp_path / n).read_text().split()) for n in ("one", "two"))
    assert all(one[name] != two[name] for name in one if name.endswith(("PASSWORD", "SECRET")))
    assert weakness_of(one["WEBHOOK_SECRET"]) is None
    assert link_secrets(one["LINK_SECRET"])
    # A second system shares neither the config nor the secrets of receivers.
    for name, made in (("one", one), ("two", two)):
        assert (made["BILLING_CONFIG_FILE"], made["FEED_ENV"]) == (f"./{name}.toml", f"./{name}.feed.env")
        assert load_config(tmp_path / f"{name}.toml").mode is Mode.TEST
    subprocess.run([*command, "test.env"], cwd=tmp_path, check=True, timeout=30)
    assert "\nBILLING_CONFIG_FILE=./test.toml\n" in (tmp_path / "test.env").read_text()
    subprocess.run(command, cwd=tmp_path, check=True, timeout=30)
    assert "BILLING_CONFIG_FILE" not in (tmp_path / ".env").read_text()
    again = subprocess.run([*command, "one"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert (again.returncode, "exists" in again.stderr) == (1, True)


def test_T35_compose_hardens_every_service(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {"mem_limit", "cpus", "pids_limit"} <= service.keys(), name
        assert service["logging"]["options"].keys() == {"max-size", "max-file"}, name
        assert all("size=" in place for place in service["tmpfs"]), name
        assert "privileged" not in service, name
        assert "cap_add" not in service, name


def test_T35_networks_join_only_what_has_to_talk(compose: dict[str, Any]) -> None:
    services, networks = compose["services"], compose["networks"]
    assert {name for name, network in networks.items() if (network or {}).get("internal")} == {"log", "data", "mail"}
    joined = {network: {name for name in services if network in services[name]["networks"]} for network in networks}
    assert joined == {
        "log": {"kafka", "topics", "operator"} | PROCESSES,
        "data": {"postgres", "migrate", "operator"} | PROCESSES,
        "mail": {"mailpit", "dispatcher", "operator"},
        "edge": {"gateway", "mailpit", "console"},
        "out": {"dispatcher", "scheduler", "operator"},
    }


def test_T31_the_roles_of_the_server_are_those_of_the_processes() -> None:
    text = (ROOT / "deploy" / "postgres-roles.sql").read_text()
    assert set(re.findall(r"CREATE ROLE billing_(\w+);", text)) == {role.name for role in ROLES}
    assert "SUPERUSER" not in text


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


def test_the_image_says_what_it_was_built_from() -> None:
    text = (ROOT / "Dockerfile").read_text()
    labels = dict(re.findall(r'org\.opencontainers\.image\.([\w.]+)="([^"]*)"', text))
    assert {labels[name] for name in ("version", "revision", "created")} == {"$VERSION", "$REVISION", "$CREATED"}
    arguments = set(re.findall(r"^ARG (\w+)=$", text, re.MULTILINE))
    command = subprocess.run(
        ["make", "-n", "image", "IMAGE=x/y"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert set(re.findall(r"--build-arg (\w+)=", command)) == arguments
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert f"-t x/y:{version} " in command
    assert "printf '%s\\n' \"$BUILD\" > ops/runtime/BUILD" in text


def test_one_version_is_named_everywhere() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "deploy" / "helm" / "billing-stream" / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", heading) for heading in headings[1:])
    assert len(headings) == 1 or headings[1].split()[0] == version


def test_the_dockerfile_passes_its_linter() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout


def test_the_example_config_is_valid() -> None:
    config = load_config(ROOT / "config.example.toml")
    assert isinstance(config, Config)
    assert config.plan_of_price("price_pro_yearly") == "pro"
    assert config.rules.dunning == DEFAULT_DUNNING


def test_the_example_config_needs_only_the_mode_to_be_live(tmp_path: Path) -> None:
    """A page of the product that it does not have would be a link to this machine, which is refused."""
    text = (ROOT / "config.example.toml").read_text()
    live = tmp_path / "live.toml"
    live.write_text(text.replace('mode = "test"', 'mode = "live"', 1))
    assert load_config(live).mode is Mode.LIVE
    assert load_config(live).mail.local_links == []
