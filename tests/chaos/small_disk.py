"""A small file system for the full-disk fault. The kernel itself returns ENOSPC. It does not need root.

It is a tmpfs in a mount namespace inside a user namespace. A shell that waits on our pipe keeps both open; other
processes reach it through /proc. It is filled by limiting its size to what it contains.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_ROOMY = "50%"
"""Half of the memory: the default of tmpfs."""
_HOLD = """
mount -t tmpfs -o size=50% tmpfs "$0" && echo 0 || exit
while read -r size; do mount -o remount,size="$size" tmpfs "$0"; echo $?; done
"""


class NoSmallDisk(Exception):
    """This machine does not let users create a namespace with its own mounts; leave the fault out."""


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """`folder` is visible to all processes of this user, and is removed when this process ends."""

    folder: Path
    _holder: subprocess.Popen[str]

    def fill(self) -> None:
        """From now on every write that needs space fails; existing files stay."""
        while True:
            now = os.statvfs(self.folder)
            if self._resize(str((now.f_blocks - now.f_bfree) * now.f_frsize)):
                return  # a refused size means that it grew meanwhile

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
    """Mount it at the empty folder `place`, visible to the holder process only. Raises NoSmallDisk."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", _HOLD, str(place)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as holder:
        if holder.stdout is None or holder.stdout.readline() != "0\n":
            raise NoSmallDisk(str(NoSmallDisk.__doc__))
        yield SmallDisk(Path(f"/proc/{holder.pid}/root{place.absolute()}"), holder)
