"""A file system that can be full: the kernel's own, so what is on it meets ENOSPC as on a disk. Root is not needed.

It is a tmpfs in a mount namespace of a user namespace of our own. A shell that waits on our pipe holds both, and others
reach it by /proc. It is full from the moment it may be no larger than what is on it.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOMY = "50%"
"""Of the memory: tmpfs' own default."""
_HOLD = """
mount -t tmpfs -o size=50% tmpfs "$0" && echo 0 || exit
while read -r size; do mount -o remount,size="$size" tmpfs "$0"; echo $?; done
"""


class NoSmallDisk(Exception):
    """This machine lets no user make a namespace with a mount of its own; leave the fault out."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """`folder` is reached by any process of this user, and is gone with this process."""

    folder: Path
    _holder: subprocess.Popen[str]

    def fill(self) -> None:
        """From now on nothing more fits; what is on it stays."""
        while True:
            now = os.statvfs(self.folder)
            if self._resize(str((now.f_blocks - now.f_bfree) * now.f_frsize)):
                return  # else it grew meanwhile

    def free(self) -> None:
        """Room again."""
        self._resize(_ROOMY)

    def _resize(self, size: str) -> bool:
        if self._holder.stdin is None or self._holder.stdout is None:
            raise NoSmallDisk("its holder has no pipes")
        self._holder.stdin.write(f"{size}\n")
        self._holder.stdin.flush()
        return self._holder.stdout.readline() == "0\n"


@contextmanager
def small_disk(place: Path) -> Iterator[SmallDisk]:
    """Mounted at an empty folder, where only the holder sees it. Raises NoSmallDisk."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLD, str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as holder:
        if holder.stdout is None or holder.stdout.readline() != "0\n":
            raise NoSmallDisk(str(NoSmallDisk.__doc__))
        yield SmallDisk(Path(f"/proc/{holder.pid}/root{place.absolute()}"), holder)
