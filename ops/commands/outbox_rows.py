"""What the commands of every outbox share: print its rows, and change the rows with the given keys."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ops.commands.acting import entry_for, keys_or_all
from ops.commands.terminal import (
    Column,
    database_or_exit,
    fail,
    note,
    refuse,
    run_or_exit,
    say,
    say_cut,
    say_json,
    show_rows,
)
from sinks.outbox.claims import Claims
from sinks.postgres.audit_log import AuditEntry

C = TypeVar("C", bound=Claims[Any])
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCommand(Generic[C]):
    """The commands of one outbox."""

    claims: type[C]
    noun: str
    """One row in messages; with an s, several."""
    columns: Sequence[Column]
    cells: Callable[[Mapping[str, Any]], Sequence[object]]
    """Returns the cells of a row, one for each of `columns`."""

    def ask(self, command: str, work: Callable[[C], Awaitable[T]]) -> T:
        """Runs `work` on the outbox, for this command."""
        settings = database_or_exit(command)

        async def go() -> T:
            claims = await self.claims.connect(
                settings.database_url, claimer="operator", pool_size=1, application="billing-ops"
            )
            try:
                return await work(claims)
            finally:
                await claims.close()

        return run_or_exit(command, go)

    def show(self, rows: Sequence[dict[str, Any]], total: int, *, wanted: str | None, as_json: bool) -> None:
        """Prints the rows: JSON lines or a table. `wanted` is the status that was asked for, None for all."""
        if as_json:
            for row in rows:
                say_json(row)
        elif rows:
            show_rows(self.columns, [self.cells(row) for row in rows])
        else:
            say(f"no {wanted + ' ' if wanted else ''}{self.noun}s")
            return
        say_cut(len(rows), total, as_json=as_json)

    def change(
        self,
        command: str,
        keys: Sequence[str] | None,
        every: bool,
        work: Callable[[C, Sequence[str] | None, AuditEntry], Awaitable[Sequence[str]]],
        *,
        changes: str = "failed",
        **options: object,
    ) -> None:
        """Runs `work` with the keys, or with None for all rows, and prints those it returns. Its transaction writes
        the audit entry, which has the options. `changes` are the statuses that it changes. Exits 1 if a given key is
        not among the returned ones."""
        if bool(keys) == every:
            refuse(command, "give keys or --all")
        chosen = None if every else list(keys or ())
        entry = entry_for(command, filter=keys_or_all(chosen, **options))
        done = self.ask(command, lambda claims: work(claims, chosen, entry))
        for key in done:
            say(key)
        note(f"{len(done)} {command.split()[-1].rstrip('e')}ed")
        if missing := sorted(set(chosen or ()) - set(done)):
            fail(command, f"not a {changes} {self.noun}: {', '.join(missing)}")
