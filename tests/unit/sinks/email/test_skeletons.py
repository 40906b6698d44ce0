"""A mail that is filled into the skeleton of its shape is the mail that its template renders, byte for byte."""

from __future__ import annotations

import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from babel import Locale
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.mail import LANGUAGES, MAILS, MailData, Money, read_mail
from schemas.settings import Mail as MailConfig
from sinks.email.mime import quoted_printable
from sinks.email.rendering import Rendered, Templates, wrapped
from sinks.email.samples import SAMPLES
from sinks.email.skeletons import EncodedLines, Parts, shape_of
from tests.examples import examples
from tests.kits.mailkit import CONFIG

TEMPLATES = Templates.of(CONFIG)
ONE_BY_ONE = Templates.of(CONFIG)
ONE_BY_ONE._text.is_plain = False
UNSUBSCRIBE = "https://app.example.com/unsubscribe?token=a&b"

TEXTS = st.sampled_from(
    ["Pro", "Pro & Co <b>", "{{ 7 * 7 }}", "a" * 90, "Zoë's Café", "日本語 " * 30, "\ue000Ab0\ue001", "%s"]
)
TIMES = st.integers(1_600_000_000, 1_900_000_000).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
MONEY = st.builds(Money, amount=st.integers(-(10**6), 10**8), currency=st.sampled_from(["eur", "jpy", "kwd", "usd"]))


@st.composite
def mails(draw: st.DrawFn) -> tuple[str, str, MailData]:
    template = draw(st.sampled_from(sorted(MAILS)))
    model, data = MAILS[template], dict(SAMPLES[template])
    sample = read_mail(template, data)
    for name, field in model.model_fields.items():
        value = getattr(sample, name)
        if not field.is_required() and draw(st.booleans()):
            data.pop(name, None)
        elif isinstance(value, Money):
            data[name] = draw(MONEY).model_dump()
        elif isinstance(value, datetime):
            data[name] = draw(TIMES)
        elif isinstance(value, str) and value.startswith("http"):
            data[name] = draw(st.sampled_from([value, "https://example.com/?a=1&b=%20" + "x" * 80]))
        elif isinstance(value, str) and str(field.annotation).find("Literal") < 0:
            data[name] = draw(TEXTS)
        elif isinstance(value, int) and not isinstance(value, bool) and name != "exp_month":
            data[name] = draw(st.integers(2, 5)) + (2000 if name == "exp_year" else 0)
    return template, draw(st.sampled_from(sorted(LANGUAGES))), read_mail(template, data)


def rendered(templates: Templates, template: str, language: str, data: MailData) -> Rendered:
    return templates.render(template, data, [language], unsubscribe_url=UNSUBSCRIBE)


@settings(max_examples=examples(200), deadline=None)
@given(mails())
def test_both_ways_have_the_same_result(mail: tuple[str, str, MailData]) -> None:
    filled, plain = rendered(TEMPLATES, *mail), rendered(ONE_BY_ONE, *mail)
    assert filled == plain
    assert filled.encoded_html == quoted_printable(plain.html)
    assert filled.encoded_text == quoted_printable(plain.text)
    assert not ONE_BY_ONE._skeletons


@pytest.mark.parametrize("language", sorted(LANGUAGES))
def test_every_mail_to_a_customer_has_a_skeleton(language: str) -> None:
    """A wording that does more with a value than to write it would make its mails twice as expensive."""
    templates = Templates.of(CONFIG)
    for template in MAILS:
        rendered(templates, template, language, read_mail(template, SAMPLES[template]))
    without = {template for (template, _, _), skeleton in templates._skeletons.items() if skeleton is None}
    assert not without
    assert {template for template, _, _ in templates._skeletons} == set(MAILS) - {"operator-alert"}


ODD = (
    "{{ name | upper }}",
    "{{ name[:2] }}",
    "{{ name | length }}",
    "{% if name == 'Ada Lovelace' %}it is her{% endif %}",
    "{% if name is string %}a text{% endif %}",
    "{% if name in ('Ada Lovelace', 'x') %}one of us{% endif %}",
    "{{ {'Ada Lovelace': 'known'}[name] | default('new') }}",
    "{% for c in name %}{{ c }}-{% endfor %}",
    "{{ name | safe }}",
    "{{ '%10s' | format(name) }}",
    "{{ name ~ name | truncate(5) }}",
    "{{ amount.amount // 100 }}",
    "{% if amount.amount > 100 %}much{% endif %}",
    "{{ paid_at.year }}",
    "{{ name.split(' ')[0] }}",
    "{% set both = name ~ '!' %}{{ both | trim }}",
    "{% set both %}{{ name }}{% endset %}{{ both | length }}",
    "{{ [name, 'b'] | join(', ') }}",
    "{{ [name, 'b'] | sort | first }}",
    "{% autoescape false %}{{ name }}{% endautoescape %}",
    "{% call p() %}{{ name | capitalize }} {{ words.day(paid_at) }} {{ name | urlencode }}{% endcall %}",
    "{{ name == organization }}{{ name == name }}{{ subject == heading }}",
    "{{ subject | length }}",
    "{% filter upper %}{{ name }}{% endfilter %}",
    "{{ name | trim('Ae') }}",
    "{{ name | wrap(5) }}",
)


@pytest.mark.parametrize("wording", ODD)
def test_a_wording_of_ones_own_may_do_what_it_likes_with_a_value(wording: str, tmp_path: Path) -> None:
    """It is rendered as always, for each mail."""
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "payment-receipt.j2").write_text(
        "{% extends layout %}{% from pieces import p, facts with context %}"
        "{% block subject %}For {{ name }}{% endblock %}{% block content %}" + wording + "{% endblock %}"
    )
    config: MailConfig = CONFIG.model_copy(update={"templates": tmp_path})
    quick, plain = Templates.of(config), Templates.of(config)
    plain._text.is_plain = False
    for name in ("Ada Lovelace", "x", "<b> & co"):
        data = {**SAMPLES["payment-receipt"], "name": name, "organization": "x"}
        mail = ("payment-receipt", "en", read_mail("payment-receipt", data))
        assert _tried(quick, *mail) == _tried(plain, *mail)
        assert _tried(Templates.of(config), *mail) == _tried(plain, *mail), "also if its files are compiled already"


def test_a_text_made_from_html_has_the_values_as_they_are(tmp_path: Path) -> None:
    """A name is no tag, and its signs are not read as HTML."""
    (tmp_path / "en").mkdir()
    (tmp_path / "en" / "payment-receipt.html.j2").write_text(
        "<html><body><h1>{% block subject %}For {{ name }}{% endblock %}</h1>"
        "<p>Hello {{ name }},<br>{{ plan }}: {{ words.money(amount) }}</p></body></html>"
    )
    config: MailConfig = CONFIG.model_copy(update={"templates": tmp_path})
    quick, plain = Templates.of(config), Templates.of(config)
    plain._text.is_plain = False
    for value in ("Ada", "<style>", "<!--", "Pro <Team>", "A &lt; B", "x & y", "a" * 70):
        data = read_mail("payment-receipt", {**SAMPLES["payment-receipt"], "name": value, "plan": value})
        mail = ("payment-receipt", "en", data)
        assert rendered(quick, *mail) == rendered(plain, *mail)
        text = " ".join(rendered(quick, *mail).text.split())
        assert text == f"For {value} Hello {value}, {value}: \u20ac49.00"
    assert all(quick._skeletons.values())


@pytest.mark.parametrize("template", sorted(set(MAILS) - {"operator-alert"}))
def test_every_mail_has_a_shape_with_all_its_fields(template: str) -> None:
    """Values that only the check before sending reads neither prevent a skeleton nor make a shape of their own."""
    data = dict(SAMPLES[template])
    checked = {name: field.annotation for name, field in MAILS[template].model_fields.items() if field.exclude}
    values = {"billed": ("price_1:2",), "items": ("price_1:2",), "announced_at": datetime.now(UTC).isoformat()}
    full = data | {name: values.get(name, "sub_1") for name in checked}
    shape = shape_of(read_mail(template, full), {})
    assert shape is not None
    assert shape == shape_of(read_mail(template, data), {})


def _tried(templates: Templates, template: str, language: str, data: MailData) -> Any:
    try:
        return rendered(templates, template, language, data)
    except Exception as error:  # noqa: BLE001  # both ways have to fail alike
        return str(error)


def test_the_number_of_skeletons_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sinks.email.rendering._SKELETONS", 3)
    templates = Templates.of(CONFIG)
    for number in range(10):
        data = {**SAMPLES["trial-ending"], "days_left": number}
        text = rendered(templates, "trial-ending", "en", read_mail("trial-ending", data)).text
        assert str(number) in text
        assert len(templates._skeletons) <= 3


@given(st.lists(st.text(alphabet="ab=é\n .\t"), min_size=1), st.lists(st.text(alphabet="ab=é\n .\t")), st.booleans())
def test_lines_are_encoded_as_the_whole_is(constant: list[str], texts: list[str], is_html: bool) -> None:
    count = min(len(constant) - 1, len(texts))
    fills = [lambda values, _, at=at: values[at] for at in range(count)]
    parts = Parts(constant[: count + 1], fills, is_html)
    filled = parts.texts(texts, None)  # type: ignore[arg-type]  # the fills above take them from the list
    assert EncodedLines(parts).filled(filled) == quoted_printable(parts.joined(filled))


@given(st.text(alphabet="ab \n\t\xa0-é"))
def test_wrapping_is_that_of_the_standard_library(text: str) -> None:
    text *= 9
    expected = textwrap.fill(" ".join(text.split()), 72, break_long_words=False, break_on_hyphens=False)
    assert wrapped(text) == expected


def test_a_locale_is_part_of_the_shape() -> None:
    receipt = read_mail("payment-receipt", SAMPLES["payment-receipt"])
    shown = {
        name: TEMPLATES.render("payment-receipt", receipt, [name]).text for name in ("en_US", "en_GB", "de_CH", "de")
    }
    assert len(set(shown.values())) == 4
    assert str(Locale.parse("de_CH")) == "de_CH"
