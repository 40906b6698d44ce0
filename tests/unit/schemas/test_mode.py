"""One mode for the whole config; a file from before is refused with the line to write."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr

from schemas.settings import Config, InvalidSettings, Mode, load_config
from sinks.stripe_api.key import parse_key

_TEST = '[endpoints.a]\nmode = "test"\nsecrets = ["whsec_hush"]\n'
_LINKS = ("app_url", "update_payment_url", "survey_url", "return_url")
_LIVE = '[endpoints.b]\nmode = "live"\nsecrets = ["whsec_hush"]\n'


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        (_TEST, 'Write mode = "test" at the top'),
        (_LIVE, 'Write mode = "live" at the top'),
        (_TEST + _LIVE, "a second system with its own database, topic prefix and Stripe key"),
        ('mode = "live"\n' + _TEST, "a second system"),
        ('mode = "live"\n' + _LIVE, "remove it"),
        ('[endpoints.a]\nmode = ["x"]\n', "mode is not a key of an endpoint"),
    ],
)
def test_a_mode_of_an_endpoint_is_refused_with_what_to_write(tmp_path: Path, text: str, advice: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(InvalidSettings, match=r"endpoints\.") as caught:
        load_config(path)
    assert advice in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "hush" not in str(caught.value)


def test_the_mode_is_test_unless_it_is_given(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('mode = "live"\n[mail]\n' + "".join(f'{name} = "https://example.com"\n' for name in _LINKS))
    assert (Config().mode, load_config(path).mode) == (Mode.TEST, Mode.LIVE)
    path.write_text('mode = "prod"\n')
    with pytest.raises(InvalidSettings, match="mode: "):
        load_config(path)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_stripe_key_of_the_other_mode_is_refused(mode: Mode) -> None:
    for key, of in (("sk_test_abc", Mode.TEST), ("rk_live_abc", Mode.LIVE)):
        if of is mode:
            assert parse_key(SecretStr(key), mode=mode).mode is mode
            continue
        with pytest.raises(InvalidSettings, match="BILLING_STRIPE_API_KEY is a key of") as caught:
            parse_key(SecretStr(key), mode=mode)
        assert "abc" not in str(caught.value)


def test_a_config_that_everyone_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text("")
    path.chmod(0o666)
    with pytest.raises(InvalidSettings, match="everyone may write this file"):
        load_config(path)
    path.chmod(0o640)
    assert load_config(path).mode is Mode.TEST
