"""`billing contract`: docs/contract/, written from the types, and checked against what was promised.

`released/VERSION.json` is never written twice: a change of the types needs another version, and one that takes away
another major version.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eventlog.contract import (
    CONTRACT_VERSION,
    ContractBroken,
    _is,
    checked,
    schemas,
)

FOLDER = Path("docs") / "contract"


def contract(
    write: Annotated[bool, typer.Option("--write", help="Write what has changed.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Say only whether the files are as they must be.")] = False,
    folder: Annotated[Path, typer.Option("--dir", help="Where the contract is kept.")] = FOLDER,
) -> None:
    """Show the contract of the log's records as AsyncAPI, or check or write its files.

    Example: billing contract --check

    Exits 1 when a promise is broken without a new version, or a file is not as the types say.
    """
    try:
        files = checked(folder, schemas(), CONTRACT_VERSION)
    except ContractBroken as error:
        typer.echo(f"billing contract: {error}", err=True)
        raise typer.Exit(1) from None
    different = [name for name, text in files.items() if not _is(folder / name, text)]
    if write:
        for name in different:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(files[name])
            typer.echo(f"written: {folder / name}")
    elif check and different:
        typer.echo(
            f"billing contract: not as the types say: {', '.join(different)}; `billing contract --write`", err=True
        )
        raise typer.Exit(1)
    elif not check:
        typer.echo(files["asyncapi.json"].decode(), nl=False)


if __name__ == "__main__":
    typer.run(contract)
