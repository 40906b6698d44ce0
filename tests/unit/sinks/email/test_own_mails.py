"""F4: own wordings, languages and brand, and the checks before the first mail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from schemas.mail import LANGUAGES, MAILS, read_mail
from schemas.mail_settings import MailLook
from schemas.settings import InvalidSettings, Mail, load_config
from sinks.email.message import Composer, UnsendableMail
from sinks.email.plain_text import plain_text
from sinks.email.preview import sample_mail
from sinks.email.rendering import Rendered, Templates, readable_on
from sinks.email.samples import SAMPLES
from sinks.email.template_check import UnusableTemplates, check_templates
from tests.kits.mailkit import queued_sample
from tests.unit.sinks.email.test_message import NOW

HEAD = "{% extends layout %}\n{% from pieces import p, facts, button, link, bullets with context %}\n"
SHORT = "%s{%% block subject %%}%s{%% endblock %%}{%% block content %%}%s{%% endblock %%}"


def _write(folder: Path, name: str, subject: str = "Changed", content: str = "", head: str = HEAD) -> Mail:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(SHORT % (head, subject, content) if path.parent != folder else content)
    return Mail(templates=folder)


def _render(config: Mail, template: str, locale: str) -> Rendered:
    return Templates.of(config).render(template, read_mail(template, SAMPLES[template]), [locale])


def test_F4_one_wording_in_one_language_is_replaced(tmp_path: Path) -> None:
    config = _write(
        tmp_path, "en/payment-receipt.j2", "Thanks for {{ words.money(amount) }}", "{% call p() %}Hi{% endcall %}"
    )
    check_templates(config)
    assert _render(config, "payment-receipt", "en").subject == "Thanks for €49.00"
    assert _render(config, "payment-receipt", "de") == _render(Mail(), "payment-receipt", "de")
    assert _render(config, "payment-failed", "en") == _render(Mail(), "payment-failed", "en")


def test_F4_a_changed_file_is_compiled_again(tmp_path: Path) -> None:
    """All composers of a process share what is compiled."""
    for subject in ("Thanks", "Many thanks"):
        config = _write(tmp_path, "en/payment-receipt.j2", subject, "{% call p() %}{{ product }}{% endcall %}")
        mail = _render(config.model_copy(update={"product": "A & B"}), "payment-receipt", "en")
        assert (mail.subject, "A &amp; B" in mail.html, "A & B" in mail.text) == (subject, True, True)


def test_F4_a_folder_adds_a_language(tmp_path: Path) -> None:
    """A mail that the new language lacks is sent in the next language that the reader prefers."""
    words = Path("sinks/email/templates/en/words.j2")
    config = _write(tmp_path, "nl/win-back.j2", "Uw plek bij {{ product }}")
    with pytest.raises(UnusableTemplates, match=r"a new language needs words\.j2"):
        check_templates(config)
    (tmp_path / "nl/words.j2").write_text((Path(__file__).parents[4] / words).read_text())
    config = Mail(templates=tmp_path, default_locale="nl")
    check_templates(config)
    assert _render(config, "win-back", "nl-BE").subject == "Uw plek bij Your SaaS"
    assert 'lang="nl"' in _render(config, "win-back", "nl-BE").html
    other = Templates.of(config).render(
        "churn-survey", read_mail("churn-survey", SAMPLES["churn-survey"]), ["nl", "de"]
    )
    assert 'lang="de"' in other.html


def test_F4_the_text_is_made_from_html_unless_it_is_given(tmp_path: Path) -> None:
    content = '<h1>Paid</h1><p>{{ words.money(amount) }} &amp; thanks</p><p><a href="https://x.example/a">Look</a></p>'
    config = _write(
        tmp_path, "en/payment-receipt.html.j2", "Paid", content, head="{% block head %}<title>no</title>{% endblock %}"
    )
    check_templates(config)
    assert _render(config, "payment-receipt", "en").text.split() == [
        "Paid",
        "Paid",
        "€49.00",
        "&",
        "thanks",
        "Look:",
        "https://x.example/a",
    ]
    (tmp_path / "en/payment-receipt.txt.j2").write_text("Own text for {{ number }}")
    assert _render(config, "payment-receipt", "en").text == "Own text for F3A1C2D4-0007\n"


def test_plain_text_of_html() -> None:
    html = (
        "<style>p{}</style><p>One<br>two</p><ul><li>a</li><li>b</li></ul><img src=x alt=Logo>"
        "<table><tr><td>k</td><td>v</td></tr></table>"
    )
    assert plain_text(html) == "One\ntwo\n\n- a\n- b\n\nLogo\n\nk v"
    assert plain_text('<a href="https://a.example">https://a.example</a>') == "https://a.example"
    assert max(map(len, plain_text("<p>" + "word " * 60 + "</p>").splitlines())) <= 72


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("en/payment-receipt.j2", "{{ total }}", "en/payment-receipt: 'total' is undefined"),
        ("en/payment-receipt.j2", "{% if amount %}", "line 3"),
        ("en/payment-receipt.j2", "{{ words.money(number) }}", "en/payment-receipt"),
        ("en/payment-receipt.j2", "{{ pdf_url.upper() }}", "en/payment-receipt"),  # not in every receipt
        ("en/payment-recipt.j2", "", "no such mail"),
        ("payment-receipt.j2", "", "expected LANGUAGE/MAIL.j2"),
        ("en/payment-receipt.html", "", "expected LANGUAGE/MAIL.j2"),
        ("en/win-back.j2", '{{ link("x", "http://localhost:3000/x") }}', "a link to this machine"),
        ("layout.html.j2", "{{ nothing }}", "'nothing' is undefined"),
        ("en/payment-receipt.txt.j2", "Paid", "nothing reads it"),
        ("en/words.html.j2", "", "no such mail"),
        ("iw/words.j2", "", "iw is no language"),
        ("xx/words.j2", "", "xx is no language"),
    ],
)
def test_F4_a_wording_that_cannot_be_used_is_refused_at_start(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    config = _write(tmp_path, name, content=content)
    with pytest.raises(UnusableTemplates) as caught:
        check_templates(config)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_F4_two_wordings_of_one_mail_are_refused(tmp_path: Path) -> None:
    """Only one of them would be sent. A plugin's own wording, that the team replaces by HTML, is no fault."""
    _write(tmp_path, "en/win-back.html.j2", content="<p>Hi</p>")
    check_templates(_write(tmp_path, "en/win-back.txt.j2", content="Hi"))
    with pytest.raises(UnusableTemplates, match=r"win-back\.html\.j2: nothing reads it"):
        check_templates(_write(tmp_path, "en/win-back.j2", content="Hi"))


def test_F4_a_text_of_nothing_is_refused(tmp_path: Path) -> None:
    """A title that is not closed hides all that follows."""
    head = "{% block subject %}Paid{% endblock %}"
    path = tmp_path / "en/win-back.html.j2"
    path.parent.mkdir()
    path.write_text(head + "<html><head><p>Hello</p>")
    check_templates(Mail(templates=tmp_path))
    for content in ("<title><p>Hello</p>", "<img src=x>", ""):
        path.write_text("{#" + head + "#}" + content + "{% if 0 %}" + head + "{% endif %}")
        with pytest.raises(UnusableTemplates, match="its plain text is empty"):
            check_templates(Mail(templates=tmp_path))


def test_F4_only_processes_that_compose_mails_need_the_folder(tmp_path: Path) -> None:
    """A gateway or a worker starts without it."""
    path = tmp_path / "config.toml"
    path.write_text('[mail]\ntemplates = "mails"\ndefault_locale = "nl"\n')
    config = load_config(path).mail
    with pytest.raises(UnusableTemplates, match="mails is not a folder"):
        check_templates(config)
    (tmp_path / "mails").mkdir()
    for locale in ("nl", "iw", "de_XX"):
        with pytest.raises(UnusableTemplates, match=f"default_locale {locale}: the languages are de, en, es, fr, pt"):
            check_templates(config.model_copy(update={"default_locale": locale}))
    check_templates(config.model_copy(update={"default_locale": "pt-BR"}))


def test_F4_a_wording_without_a_subject_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnusableTemplates, match="subject"):
        check_templates(_write(tmp_path, "en/win-back.j2", subject=""))


@pytest.mark.parametrize("locale", sorted(LANGUAGES))
@pytest.mark.parametrize("template", sorted(MAILS))
def test_F4_each_mail_has_logo_colour_address_and_footer(template: str, locale: str) -> None:
    brand = MailLook(
        logo_url="https://cdn.example.com/logo.png", accent="#ffcc00", address="Acme Inc\n1 Main <St>", footer="HRB 12"
    )
    mail = _render(Mail(product="Acme", brand=brand), template, locale)
    assert '<img src="https://cdn.example.com/logo.png" alt="Acme" width="140"' in mail.html
    assert "1 Main &lt;St&gt;" in mail.html
    assert mail.text.endswith("Acme Inc\n1 Main <St>\nHRB 12\n")
    assert "#1d4ed8" not in mail.html


@pytest.mark.parametrize(
    ("colour", "text"), [("#1d4ed8", "#ffffff"), ("#ffcc00", "#111827"), ("#000000", "#ffffff"), ("#FFFFFF", "#111827")]
)
def test_F4_the_text_of_a_button_can_be_read(colour: str, text: str) -> None:
    assert readable_on(colour) == text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('brand.accent = "red"', "mail.brand.accent"),
        ('brand.logo_url = "ftp://x/y"', "mail.brand.logo_url"),
        ('brand.address = "1\\n2\\n3\\n4\\n5\\n6\\n7\\n8\\n9"', "more than 8 lines"),
        ('default_locale = "xx"', "the languages are de, en, es, fr, pt"),
        ('portal_configuration = "x"', "mail.portal_configuration"),
    ],
)
def test_F4_an_impossible_setting_is_refused(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(f"[mail]\n{line}\n")
    with pytest.raises(InvalidSettings, match=reason):
        load_config(path)


def test_F4_the_folder_is_relative_to_the_config(tmp_path: Path) -> None:
    (tmp_path / "mails").mkdir()
    path = tmp_path / "config.toml"
    path.write_text('[mail]\ntemplates = "mails"\n')
    assert load_config(path).mail.templates == tmp_path / "mails"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8080", "0.0.0.0", "[::1]"])
def test_F4_no_link_to_this_machine_leaves_in_live_mode(host: str) -> None:
    """Wherever it comes from: a row that was queued with an old config, for example."""
    mail = queued_sample("churn-survey", data={"survey_url": f"http://{host}/survey"})
    with pytest.raises(UnsendableMail, match="a link to this machine"):
        Composer(Mail(app_url="https://app.example.com"), link_secret=b"s").compose(mail, NOW)
    Composer(Mail(), link_secret=b"s").compose(replace(mail, livemode=False), NOW)
    near = queued_sample("churn-survey", data={"survey_url": "https://localhost.example.com/survey"})
    Composer(Mail(app_url="https://app.example.com"), link_secret=b"s").compose(near, NOW)


def test_F4_with_the_portal_update_links_are_signed_and_lead_to_the_gateway() -> None:
    config = Mail(
        customer_portal=True,
        app_url="https://app.example.com",
        survey_url="https://s.example",
        return_url="https://r.example",
    )
    assert config.local_links == []  # update_payment_url is not used
    composer = Composer(config, link_secret=b"s", public_url="https://pay.example.com")
    for template in ("payment-failed", "card-expiring", "payment-method-detached"):
        text = composer.compose(queued_sample(template), NOW).message.get_body(("plain",))
        assert text is not None
        assert "https://pay.example.com/portal?token=" in text.get_content()
        assert SAMPLES[template]["update_url"] not in text.get_content()
    fallback = queued_sample(
        "payment-action-required", data={**SAMPLES["payment-action-required"], "hosted_url": config.update_payment_url}
    )
    body = composer.compose(fallback, NOW).message.get_body(("plain",))
    assert body is not None
    assert "https://pay.example.com/portal?token=" in body.get_content()


@pytest.mark.parametrize("template", sorted(MAILS))
def test_G31_a_preview_has_the_links_of_the_config_only(template: str) -> None:
    links = dict.fromkeys(("app_url", "update_payment_url", "survey_url", "return_url"), "https://own.example/x")
    config = Mail.model_validate(links)
    message = sample_mail(template, "en", config, Composer(config, link_secret=b"s")).message
    html = message.get_body(("html",))
    assert html is not None
    hosts = {urlsplit(part.partition('"')[0]).hostname for part in html.get_content().split('href="')[1:]}
    assert hosts <= {"own.example", "invoice.stripe.com", "pay.stripe.com", "dashboard.stripe.com"}
