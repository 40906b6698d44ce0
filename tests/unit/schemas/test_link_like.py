"""The endings of domains in other scripts are all ones that a name server can have."""

from __future__ import annotations

import re

import pytest

from schemas.link_like import INTERNATIONAL, looks_like_link


@pytest.mark.parametrize("code", sorted(INTERNATIONAL))
def test_T43_each_international_ending_is_a_code_that_makes_a_link(code: str) -> None:
    assert re.fullmatch(r"xn--[a-z0-9-]+", code)
    assert looks_like_link("name." + code.removeprefix("xn--").encode().decode("punycode"))
