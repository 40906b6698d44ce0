"""Launcher of every child process: makes the kernel kill the child when its parent dies, then executes the program.

It runs as a script and uses only the standard library. The kernel sends the death signal when the *thread* that
forked ends, so fork from a thread that lives as long as the process.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import pwd
import sys
from collections.abc import Sequence

# linux/prctl.h
_PR_SET_PDEATHSIG = 1

USER = "nobody"
"""The system's user without rights."""


def command(
    program: Sequence[str], *, death_signal: int, not_root: bool, handed: Sequence[os.PathLike[str] | str] = ()
) -> list[str]:
    """Return the argument list that runs `program` (an absolute path and arguments) through this file.

    The calling process must be the parent. `handed` are files and directories named in the arguments that a program
    which is `not_root` has to reach, although directories above them are closed to its user.
    """
    tie = ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    paths = [f"--handed={os.fspath(path)}" for path in handed]
    return [sys.executable, "-ES", __file__, *tie, *(["--not-root", *paths] if not_root else []), "--", *program]


def main(argv: list[str]) -> None:
    """Apply the options and `exec` PROGRAM. Returns only by raising OSError."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--not-root", action="store_true")
    parser.add_argument("--handed", action="append", default=[])
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(argv)
    program = options.program
    if options.not_root and os.geteuid() == 0:
        program = _hand_over(program, options.handed)
        _leave_root()
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, options.death_signal)  # last: changing the user clears it
    if os.getppid() != options.parent:
        sys.exit("the parent ended before the child started")
    os.execv(program[0], program)  # noqa: S606 - the purpose of this file


def _hand_over(program: list[str], paths: Sequence[str]) -> list[str]:
    """Open the paths, and name them in the arguments by their descriptors, which the program inherits.

    The kernel follows /proc/self/fd/N without looking at the directories above. The file's own mode still applies.
    """
    if sys.platform != "linux":
        return program
    for path in paths:
        descriptor = os.open(path, os.O_PATH)
        os.set_inheritable(descriptor, True)
        program = [part.replace(path, f"/proc/self/fd/{descriptor}") for part in program]
    return program


def _leave_root() -> None:
    """Switch to USER, without any capability: PostgreSQL refuses to run as uid 0."""
    user = pwd.getpwnam(USER)
    os.setgroups([])
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *values: int) -> None:
    arguments = [*values, 0, 0, 0, 0][:4]
    _checked(_libc().prctl(option, *(ctypes.c_ulong(argument) for argument in arguments)))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
