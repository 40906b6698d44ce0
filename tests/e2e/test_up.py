"""`billing up` and `billing down` as a user runs them: two systems at once, a dead worker, an event, a clean stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.kits import clikit
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

BILLING = Path(sys.executable).with_name("billing")


def billing(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    if words[0] not in ("up", "down"):  # how these start is tested here
        return clikit.billing(words, env or {}, timeout=180)
    return subprocess.run(
        [BILLING, *words],
        env={**_clean_env(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def _clean_env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("BILLING_")}


def settings_of(state_dir: Path) -> dict[str, str]:
    """The settings in STATE_DIR/env, as a shell reads them."""
    script = f"set -a; . {state_dir}/env; env -0"
    done = subprocess.run(["/bin/sh", "-c", script], env=_clean_env(), capture_output=True, timeout=30, check=True)
    pairs = (line.split("=", 1) for line in done.stdout.decode().split("\0") if line)
    return {name: value for name, value in pairs if name.startswith("BILLING_")}


def processes_of(state_dir: Path) -> dict[int, str]:
    """Processes with this state directory in their command line or environment."""
    found = {}
    for process in psutil.process_iter():
        try:
            if str(state_dir) in " ".join(process.cmdline()) or process.environ().get("STATE_DIR") == str(state_dir):
                found[process.pid] = " ".join(process.cmdline())[:120]
        except psutil.Error:  # the process ended meanwhile, or belongs to another user
            continue
    return found


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    folders = (tmp_path_factory.mktemp("one") / "state", tmp_path_factory.mktemp("two") / "state")
    try:
        with ThreadPoolExecutor(len(folders)) as pool:
            ups = [pool.submit(billing, "up", "--state-dir", str(folder), "--detach") for folder in folders]
        for started in (up.result() for up in ups):
            assert started.returncode == 0, started.stdout + started.stderr
        yield folders
    finally:
        for folder in folders:
            billing("down", "--state-dir", str(folder))
            wait_until(lambda folder=folder: not processes_of(folder), within_s=30)  # type: ignore[misc]  # bound now


def test_two_systems_side_by_side_each_take_their_own_event(systems: tuple[Path, Path]) -> None:
    for folder in systems:
        env = settings_of(folder)
        assert {"BILLING_GATEWAY_URL", "BILLING_WEBHOOK_SECRET", "BILLING_DATABASE_URL"} <= env.keys()
        sent = billing("trigger", "customer.subscription.created", "--json", env=env)
        assert sent.returncode == 0, sent.stderr
        event_id = json.loads(sent.stdout)["event_id"]

        def outcome(event_id: str = event_id, env: dict[str, str] = env) -> str | None:
            result = billing("event", event_id, "--json", env=env)
            return json.loads(result.stdout)["event"]["outcome"] if result.returncode == 0 else None

        wait_until(lambda: outcome() == "applied", within_s=30)
        other = settings_of(systems[1] if folder == systems[0] else systems[0])
        assert billing("event", event_id, env=other).returncode == 1


def test_a_second_up_in_the_same_directory_is_refused(systems: tuple[Path, Path]) -> None:
    again = billing("up", "--state-dir", str(systems[0]), "--detach")
    assert again.returncode == 1
    assert "already running" in again.stderr


def test_T34_nothing_of_a_running_system_is_open_to_other_users(systems: tuple[Path, Path]) -> None:
    (folder, _) = systems
    found = [path for path in (folder, *folder.rglob("*")) if not path.is_symlink()]
    assert len(found) > 100
    assert [path for path in found if path.exists() and path.stat().st_mode & 0o077 and not path.is_socket()] == []


def test_a_dead_worker_is_restarted_and_reported(systems: tuple[Path, Path]) -> None:
    (worker,) = (pid for pid, line in processes_of(systems[0]).items() if line.endswith("ops.cli worker"))
    os.kill(worker, signal.SIGKILL)
    log = systems[0] / "logs" / "up.log"
    wait_until(lambda: "worker-1" in log.read_text(), within_s=30)

    def is_back() -> bool:
        return any(line.endswith("ops.cli worker") for line in processes_of(systems[0]).values())

    wait_until(is_back, within_s=30)


def test_trigger_is_refused_for_a_live_system(systems: tuple[Path, Path], tmp_path: Path) -> None:
    env = settings_of(systems[0])
    config = Path(env["BILLING_CONFIG"]).read_text()
    assert (config.count('mode = "test"'), config.count("[mail]\n")) == (1, 1)
    names = ("app_url", "update_payment_url", "survey_url", "return_url")
    public = "".join(f'{name} = "https://app.example.com/{name}"\n' for name in names)
    config = config.replace("[mail]\n", f"[mail]\n{public}")
    live = tmp_path / "config.toml"
    live.write_text(config.replace('mode = "test"', 'mode = "live"'))
    live.chmod(0o600)
    refused = billing("trigger", "invoice.paid", env=env | {"BILLING_CONFIG": str(live)})
    assert refused.returncode == 2
    assert 'mode = "live": test events are not allowed' in refused.stderr


def test_trigger_is_refused_for_an_unknown_endpoint(systems: tuple[Path, Path]) -> None:
    refused = billing("trigger", "invoice.paid", "--endpoint", "live", env=settings_of(systems[0]))
    assert refused.returncode == 2
    assert "no endpoint live (configured: default)" in refused.stderr


def test_trigger_is_refused_with_a_live_key(systems: tuple[Path, Path]) -> None:
    settings = settings_of(systems[0])
    refused = billing("trigger", "invoice.paid", env={**settings, "BILLING_STRIPE_API_KEY": "sk_" + "live_1"})
    assert refused.returncode == 2
    assert "live key" in refused.stderr


def test_secrets_are_in_no_command_line_and_no_log(systems: tuple[Path, Path]) -> None:
    secret = settings_of(systems[0])["BILLING_WEBHOOK_SECRET"]
    assert all(secret not in line for line in processes_of(systems[0]).values())
    assert all(secret not in path.read_text() for path in (systems[0] / "logs").iterdir())
