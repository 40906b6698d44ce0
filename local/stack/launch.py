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

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAP_VERSION_3 = 0x20080522


def command(program: Sequence[str], *, death_signal: int, not_root: bool) -> list[str]:
    """Return the argument list that runs `program` (an absolute path and arguments) through this file.

    The calling process must be the parent.
    """
    tie = ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    return [sys.executable, "-ES", __file__, *tie, *(["--not-root"] if not_root else []), "--", *program]


def main(argv: list[str]) -> None:
    """Apply the options and `exec` PROGRAM. Returns only by raising OSError."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--not-root", action="store_true")
    parser.add_argument("program", nargs="+")
    options = parser.parse_args(argv)
    if options.not_root and os.geteuid() == 0:
        _leave_root()
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, options.death_signal)  # last: changing the user clears it
    if os.getppid() != options.parent:
        sys.exit("the parent ended before the child started")
    os.execv(options.program[0], options.program)  # noqa: S606 - the purpose of this file


def _leave_root() -> None:
    """Switch to the user `nobody`, but keep CAP_DAC_OVERRIDE, the capability to ignore file modes.

    PostgreSQL refuses to run as uid 0. Its files may be below a directory that only root can enter (its cache).
    Keeping this one capability avoids opening those directories to everyone.
    """
    nobody = pwd.getpwnam("nobody")
    if sys.platform == "linux":
        _prctl(_PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    if sys.platform == "linux":
        header = (ctypes.c_uint32 * 2)(_CAP_VERSION_3, 0)
        bit = 1 << _CAP_DAC_OVERRIDE
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)  # effective, permitted, inheritable; low words first
        _checked(_libc().capset(ctypes.byref(header), ctypes.byref(sets)))
        _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)


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
