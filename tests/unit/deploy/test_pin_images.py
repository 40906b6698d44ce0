"""`make pin-images` gives each image of the Dockerfile and the compose file the digest that its tag has (trust T35).

There is no registry here: a program named docker answers with a digest for each tag.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import yaml

from tests.paths import ROOT

_DOCKER = """#!/bin/sh
[ "$1 $2 $3 $4" = "buildx imagetools inspect --format" ] || exit 64
case $6 in *@*|"") exit 65 ;; esac
printf 'sha256:%s\\n' "$(printf '%s' "$SALT$6" | sha256sum | cut -d' ' -f1)"
"""
_FILES = ("Dockerfile", "docker-compose.yml")


def _copy(folder: Path) -> Path:
    (folder / "deploy").mkdir()
    for name in (*_FILES, "deploy/pin-images.sh"):
        shutil.copy(ROOT / name, folder / name)
    (folder / "bin").mkdir()
    (folder / "bin" / "docker").write_text(_DOCKER)
    (folder / "bin" / "docker").chmod(0o755)
    return folder


def _pin(folder: Path, salt: str = "", docker: str = "bin") -> subprocess.CompletedProcess[str]:
    path = f"{folder / docker}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "SALT": salt}
    command = ["sh", "deploy/pin-images.sh"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60, check=False)


def _images(folder: Path) -> list[str]:
    compose = yaml.safe_load((folder / "docker-compose.yml").read_text())
    used = [service["image"] for service in compose["services"].values() if "image" in service]
    return used + re.findall(r"^FROM (\S+)", (folder / "Dockerfile").read_text(), re.MULTILINE)


def _digest_of(tag: str, salt: str = "") -> str:
    return hashlib.sha256((salt + tag).encode()).hexdigest()


def test_every_image_gets_its_digest_and_nothing_else_changes(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    tags = [image.partition("@")[0] for image in _images(folder)]
    assert len(tags) >= 5
    assert _pin(folder).returncode == 0
    assert _images(folder) == [f"{tag}@sha256:{_digest_of(tag)}" for tag in tags]
    for name in _FILES:
        pinned = re.sub(r"@sha256:[0-9a-f]{64}", "", (folder / name).read_text())
        assert pinned == re.sub(r"@sha256:[0-9a-f]{64}", "", (ROOT / name).read_text())


def test_a_second_run_takes_the_newer_image_of_the_same_tag(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    tags = [image.partition("@")[0] for image in _images(folder)]
    _pin(folder)
    assert _pin(folder, salt="newer").returncode == 0
    assert _images(folder) == [f"{tag}@sha256:{_digest_of(tag, 'newer')}" for tag in tags]


def test_an_image_without_a_digest_ends_it(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    (folder / "bin" / "docker").write_text("#!/bin/sh\necho latest\n")
    done = _pin(folder)
    assert done.returncode == 1
    assert "docker gave no digest" in done.stderr
    assert _images(folder) == _images(ROOT)
