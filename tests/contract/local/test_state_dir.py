"""A state directory: used by one system at a time, with a valid config and an env file for shells."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from pathlib import Path

import pytest

from local.stack import kafka_jars
from local.stack.ports import free_port, kept_port
from local.state_dir import AlreadyRunning, Claim, ForeignDirectory, make_private, own_config, write_env
from schemas.settings import Mode, load_config


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_one_system_at_a_time(tmp_path: Path) -> None:
    """The second claim is refused while the first one holds; after its release the next one succeeds."""
    first = Claim(tmp_path / "state").take()
    assert _mode(tmp_path / "state") == 0o700
    with pytest.raises(AlreadyRunning):
        Claim(tmp_path / "state").take()
    owner = Claim(tmp_path / "state").owner()
    assert owner is not None
    first.drop()
    assert not Claim(tmp_path / "state").is_taken()
    Claim(tmp_path / "state").take().drop()


def test_own_config_loads_and_keeps_its_secrets(tmp_path: Path) -> None:
    """Test mode, and an endpoint `default` with a random secret; the next start finds the same one."""
    path = own_config(tmp_path)
    config = load_config(path)
    default = config.endpoints["default"]
    assert config.mode is Mode.TEST
    assert default.secrets[0].get_secret_value().startswith("whsec_")
    assert config.plan_of_price("price_pro_monthly") == "pro"
    assert _mode(path) == 0o600
    written = path.read_bytes()
    assert own_config(tmp_path).read_bytes() == written
    assert config.mail.send_test_mode
    other = tmp_path / "other"
    other.mkdir()
    assert load_config(own_config(other)).endpoints["default"].secrets != default.secrets


def test_a_config_from_before_mails_had_to_be_allowed_still_sends_them(tmp_path: Path) -> None:
    """The other lines stay as they are, and a config that mentions mail is left unchanged."""
    mail = "\n[mail]\n"
    before = own_config(tmp_path).read_text().split(mail)[0]
    (tmp_path / "config.toml").write_text(before)
    assert load_config(own_config(tmp_path)).mail.send_test_mode
    assert (tmp_path / "config.toml").read_text().startswith(before)
    (tmp_path / "config.toml").write_text(f'{before}{mail}product = "Acme"\n')
    assert not load_config(own_config(tmp_path)).mail.send_test_mode


def test_a_shell_reads_env_back(tmp_path: Path) -> None:
    """Quotes, dollar signs, spaces and empty values survive `. STATE_DIR/env`."""
    values = {"EMPTY": "", "PLAIN": "127.0.0.1:9092", "ODD": 'it\'s $HOME `x` "y" \\ é'}
    write_env(tmp_path, values)
    assert _mode(tmp_path / "env") == 0o600
    script = '. ./env; printf "%s\\0" "$EMPTY" "$PLAIN" "$ODD"'
    output = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, check=True).stdout
    assert output.decode().split("\0")[:-1] == list(values.values())


def test_ports_are_kept_and_never_shared(tmp_path: Path) -> None:
    """A name keeps its port between starts, and no two names share one."""
    ports = {name: kept_port(tmp_path, name) for name in "abcdefgh"}
    assert {name: kept_port(tmp_path, name) for name in ports} == ports
    assert len(set(ports.values())) == len(ports)
    chosen = free_port()
    assert kept_port(tmp_path, "a", chosen) == chosen
    assert kept_port(tmp_path, "a") == chosen


def test_an_incomplete_jar_is_not_accepted(tmp_path: Path) -> None:
    """The cache is complete only if every pinned jar has its hash; an interrupted download does not."""
    assert len(kafka_jars.broken_jars(tmp_path)) == 46
    name, digest = "jspecify-1.0.0.jar", kafka_jars.SHA256["jspecify-1.0.0.jar"]
    whole = (kafka_jars.fetch_jars(lambda _line: None)[0].parent / name).read_bytes()
    assert hashlib.sha256(whole).hexdigest() == digest
    (tmp_path / name).write_bytes(whole)
    assert name not in kafka_jars.broken_jars(tmp_path)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    assert name in kafka_jars.broken_jars(tmp_path)


def test_T34_everything_made_while_a_system_runs_is_its_owners_only(tmp_path: Path) -> None:
    """Also the parents that are created, and a directory that an earlier version left open."""
    state = tmp_path / "new" / "state"
    state.parent.mkdir(mode=0o755)
    state.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        for folder in (state, tmp_path / "other" / "state"):
            claim = Claim(folder).take()
            (folder / "logs").mkdir()
            (folder / "logs" / "own.log").write_text("guest@example.com")
            subprocess.run(["touch", folder / "logs" / "child.log"], check=True, timeout=30)
            claim.drop()
            assert [path for path in (folder, *folder.rglob("*")) if _mode(path) & 0o077] == []
        assert _mode(tmp_path / "other") == 0o700
        (tmp_path / "after").touch()
        assert _mode(tmp_path / "after") == 0o644
    finally:
        os.umask(before)


def test_T34_a_directory_for_all_users_stays_open(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    make_private(tmp_path)
    assert _mode(tmp_path) == 0o1777


def test_a_directory_that_is_closed_is_named_once(tmp_path: Path) -> None:
    said: list[str] = []
    tmp_path.chmod(0o755)
    make_private(tmp_path, said.append)
    make_private(tmp_path, said.append)
    make_private(tmp_path / "new", said.append)
    assert len(said) == 1
    assert str(tmp_path) in said[0]
    assert _mode(tmp_path) == 0o700


def test_a_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could read what is written there. Root may use it, and leaves it as it is."""
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(ForeignDirectory, match="belongs to another user"):
        Claim(tmp_path).take()
    assert not (tmp_path / "run").exists()
    tmp_path.chmod(0o1777)
    with pytest.raises(ForeignDirectory):
        make_private(tmp_path)
    assert _mode(tmp_path) == 0o1777


def test_a_directory_with_another_use_is_not_closed(tmp_path: Path) -> None:
    """`--state-dir /var/lib` by mistake, as root, would close it to every service of the machine."""
    (tmp_path / "of-another-program").write_text("")
    tmp_path.chmod(0o755)
    with pytest.raises(ForeignDirectory, match="holds other files"):
        make_private(tmp_path)
    assert _mode(tmp_path) == 0o755
    (tmp_path / "ports.json").write_text("{}")
    make_private(tmp_path)
    assert _mode(tmp_path) == 0o700
