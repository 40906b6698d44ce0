"""The option `--account` takes ids of Stripe's accounts only: they become part of requests and queries."""

from __future__ import annotations

import pytest

from ops.commands.accounts import is_account
from recovery.reconcile.refetch import path_of


def test_an_account_is_recognized() -> None:
    assert is_account("acct_1Ab9")


@pytest.mark.parametrize(
    "text", ["", "acct_", "cus_1", "acct_1\n", "acct_é", "acct_\uff11", "acct_1_2", "acct_1'", "xacct_1"]
)
def test_anything_else_is_no_account(text: str) -> None:
    assert not is_account(text)


@pytest.mark.parametrize("text", ["sub_é", "sub_\uff11", "sub_1/2"])
def test_an_object_id_is_ascii_too(text: str) -> None:
    with pytest.raises(ValueError, match="is not the id"):
        path_of(text)
