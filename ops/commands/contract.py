"""`billing contract`: generates docs/contract/ from the types, and checks it against the released versions.

A released `released/VERSION.json` never changes: a change of the types needs a new version, and a breaking change a
new major version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventlog.contract import (
    CONTRACT_VERSION,
    ContractBroken,
    checked,
    has_content,
    schemas,
)
from ops.commands.terminal import exits, fail, refuse, say, say_text

FOLDER = Path("docs") / "contract"


def contract(
    write: Annotated[bool, typer.Option("--write", help="Write the files that differ.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only check that the files are up to date.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Folder of the contract.")] = FOLDER,
) -> None:
    """Print the contract of the log's records as AsyncAPI, or check or write its files.

    Example: billing contract --check

    Exits 1 if the types break a released version, or with --check if a file is out of date, 2 if there is no such
    folder.
    """
    if (check or write) and not folder.is_dir():
        refuse("contract", f"there is no folder {folder}: run it in a checkout, or name the folder with --dir")
    with exits("contract", no=(ContractBroken,)):
        files = checked(folder, schemas(), CONTRACT_VERSION)
    different = [name for name, text in files.items() if not has_content(folder / name, text)]
    if write:
        for name in different:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
            say(f"written: {folder / name}")
    elif check and different:
        fail("contract", f"out of date: {', '.join(different)}; run `billing contract --write`")
    elif not check:
        say_text(files["asyncapi.json"].decode().removesuffix("\n"))


if __name__ == "__main__":
    typer.run(contract)
