"""`billing console`: the operator's console in the browser, links to it, and hashes of passwords."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ops.commands.acting import entry_for
from ops.commands.terminal import fail, is_terminal, note, run_or_exit, say, settings_and_config

app = typer.Typer(invoke_without_command=True)

_LEAST_CHARACTERS = 12


@app.callback()
def console(context: typer.Context) -> None:
    """Serve the operator's console: events, customers, failures and their repair, in a browser.

    Example: billing console &   then   billing console link

    Listens on 127.0.0.1:8900, unless BILLING_CONSOLE_HOST and BILLING_CONSOLE_PORT say otherwise. On SIGTERM it exits
    0. Exits 1 if a port is in use, 2 if a setting is invalid or the console would be open without sign-in.
    """
    if context.invoked_subcommand is not None:
        return
    from ops.processes.console import run
    from ops.processes.skeleton import run_process

    settings, config = settings_and_config("console")
    raise typer.Exit(run_process("console", lambda: run(settings, config)))


@app.command()
def link(
    role: Annotated[str, typer.Option(help="viewer, support, finance, operator or admin.")] = "admin",
    by: Annotated[str | None, typer.Option(help="Your name, for the record. Default: the system user.")] = None,
) -> None:
    """Print a link that signs in once, within 24 hours. Whoever may read the database may make one.

    Example: billing console link --role support

    Exits 2 if a setting or the role is invalid, 3 if Postgres does not answer.
    """
    from console.links import make_link
    from schemas.console_settings import Role

    if role.upper() not in Role.__members__:
        raise typer.BadParameter(f"{role}: a role is one of {', '.join(each.label for each in Role)}")
    settings, _ = settings_and_config("console link", warns=False)
    entry = entry_for("console link", by, filter={"role": role.lower()})
    say(run_or_exit("console link", lambda: make_link(settings, entry, Role[role.upper()])))


@app.command("hash-password")
def hash_password() -> None:
    """Read a password from stdin and print its hash, for `[console.users.NAME] password`.

    Example: billing console hash-password < password.txt

    Exits 1 if the password has fewer than twelve characters.
    """
    from console.passwords import hash_of

    if is_terminal() and sys.stdin.isatty():
        note("Password, then Enter (it is shown):")
    password = sys.stdin.readline().rstrip("\r\n")
    if len(password) < _LEAST_CHARACTERS:
        fail("console hash-password", f"a password has at least {_LEAST_CHARACTERS} characters")
    say(hash_of(password))
