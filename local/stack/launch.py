"""Beside the flow: the first thing each child runs; it ties the child's life to its parent's, then becomes the program.

It runs as a file, with the standard library alone. The kernel sends the death signal when the *thread* that forked
ends, so fork from one that lasts.
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
    """The argument list that runs `program` (an absolute path and its arguments) through this file, as our child."""
    tie = ["--parent", str(os.getpid()), "--death-signal", str(int(death_signal))]
    return [sys.executable, "-ES", __file__, *tie, *(["--not-root"] if not_root else []), "--", *program]


def main(argv: list[str]) -> None:
    """Apply what was asked and `exec` PROGRAM; returns only by raising OSError."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--death-signal", type=int, required=True)
    parser.add_argument("--not-root", action="store_true")
    parser.add_argument("program", nargs="+")
    asked = parser.parse_args(argv)
    if asked.not_root and os.geteuid() == 0:
        _leave_root()
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, asked.death_signal)  # last: changing the user clears it
    if os.getppid() != asked.parent:
        sys.exit("the parent ended before the child began")
    os.execv(asked.program[0], asked.program)  # noqa: S606 - the point of this file


def _leave_root() -> None:
    """Become `nobody`, who may still read and write what root's file modes allow.

    PostgreSQL refuses uid 0. Its files may lie below a directory that only root can enter (its cache), so the one
    capability that passes file modes is kept, instead of opening those directories to everyone.
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
    words = [*values, 0, 0, 0, 0][:4]
    _checked(_libc().prctl(option, *(ctypes.c_ulong(word) for word in words)))


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
