"""Tables on narrow and wide terminals, and the exit code of each kind of error."""

from __future__ import annotations

import pytest
import typer

from ops.commands.terminal import Column, exits, fail, run_or_exit, say_cut, show_pairs, show_rows, width
from ops.runtime.exit_codes import AddressTaken, CannotContinue, ExitCode
from schemas.errors import BillingError, LogUnavailable, ServiceUnavailable, StoreRefused, StoreUnavailable
from schemas.settings import InvalidSettings

EVENT = "evt_1NG8Du2eZvKYlo2CUI79vXWy"
CUSTOMER = "cus_NffrFeUfNV2HibLonger"
PLACE = "billing.dead/11/123456789012"
AMOUNT = "2592000000"
ERROR = f"RuleViolated: the invoice in_1MtHbELkdIwHu7ixl4OzzPMv of {CUSTOMER} is paid twice, and no invoice says why"
COLUMNS = (
    Column("event"),
    Column("type"),
    Column("customer"),
    Column("amount", right=True),
    Column("error"),
    Column("last failed", whole=True),
    Column("position"),
)
ROWS = [(EVENT, "customer.subscription.pending_update_applied", CUSTOMER, AMOUNT, ERROR, "2026-03-01 12:00:00", PLACE)]


@pytest.mark.parametrize("columns", [40, 80, 120, 200, 300])
def test_ids_amounts_and_times_are_never_broken(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    show_rows(COLUMNS, ROWS * 3)
    shown = capsys.readouterr().out
    for whole in (EVENT, CUSTOMER, PLACE, AMOUNT, "2026-03-01 12:00:00", "in_1MtHbELkdIwHu7ixl4OzzPMv"):
        assert shown.count(whole) >= 3, whole
    longest = max(map(len, ["customer.subscription.pending_update_applied"]))
    assert all(len(line) <= max(columns, longest + 20) for line in shown.splitlines())
    assert (" type " in shown.splitlines()[0]) == (columns >= 200), "a narrow terminal has one block per record"


def test_a_table_is_aligned_and_wraps_texts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    show_rows((Column("id"), Column("n", right=True), Column("why")), [("evt_1", 7, "株式 one two three four five")])
    assert capsys.readouterr().out == ("id     n  why\nevt_1  7  株式 one two three\n          four five\n")


def test_no_control_character_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    show_rows((Column("a"),), [("x\x1b[31m\n[bold]y[/bold]",)], title="t\x9b")
    show_pairs({"k\x07": "v\u202e", "empty": None}, title="pairs")
    shown = capsys.readouterr().out
    assert all(line.isprintable() for line in shown.split("\n"))
    assert "[bold]y[/bold]" in shown
    assert "empty" not in shown


def test_a_pipe_has_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert width() == 200


def test_a_cut_list_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    say_cut(100, 305, as_json=False)
    say_cut(100, 100, as_json=False)
    say_cut(3, 4, as_json=True)
    assert capsys.readouterr() == ("100 of 305, --limit for more\n", "3 of 4, --limit for more\n")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidSettings("BILLING_X"), ExitCode.USAGE),
        (StoreUnavailable("no answer"), ExitCode.UNAVAILABLE),
        (LogUnavailable("no answer"), ExitCode.UNAVAILABLE),
        (ServiceUnavailable("no answer"), ExitCode.UNAVAILABLE),
        (StoreRefused("refused"), ExitCode.NO),
        (BillingError("no"), ExitCode.NO),
        (AddressTaken("taken"), ExitCode.NO),
        (CannotContinue("crashed"), ExitCode.STUCK),
        (LookupError("the answer is no"), ExitCode.NO),
    ],
)
def test_each_error_has_its_exit_code(error: Exception, code: ExitCode, capsys: pytest.CaptureFixture[str]) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(typer.Exit) as end:
        run_or_exit("mail ls", work, no=(LookupError,))
    assert end.value.exit_code == code
    assert capsys.readouterr().err == f"billing mail ls: {error}\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exits("event"):
        raise ZeroDivisionError


def test_structures_are_shown_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    show_pairs({"steps": {"payment-failed": "2026-10-11"}, "ids": ["a"], "none": None})
    assert capsys.readouterr().out.split("\n")[:2] == ['steps  {"payment-failed":"2026-10-11"}', 'ids    ["a"]']


def test_fail_prints_the_command_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        fail("brake release", "the brake does not hold\nit")
    assert capsys.readouterr().err == "billing brake release: the brake does not hold it\n"
