"""T42: what a mail program would turn into a link is found, and names of people and companies are not taken for it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.link_like import endings, looks_like_link


def test_each_ending_of_the_list_makes_a_link_in_any_case() -> None:
    """In other scripts both as letters and in Punycode."""
    assert len(endings()) > 1400
    assert {"com", "za", "ck", "med", "рф", "xn--p1ai"} <= endings()
    missed = [one for one in endings() if not looks_like_link(f"Visit evil.{one}") or not looks_like_link(f"x.{one}.")]
    assert not missed


@pytest.mark.parametrize(
    "name",
    [
        "Dr.med. Meyer", "Dr.med.Meyer", "Dr.h.c.Kim", "Prof.Dr.Kim", "Dipl.Ing. Huber", "Dipl.-Ing.(FH) Kim",
        "MUDr.Novák",
        "J.Ng", "J.NG", "J.-P.Ma", "J-P.Ma", "A.M.Kim", "T.J.Maxx", "И.И.Иванов", "김.민준", "王.小明", "St.John",
        "Ma.Elena",
        "J.de Vries", "M.do Carmo", "S.A.de C.V.", "Acme Co.Ltd", "Acme Co.,Ltd.", "Foo Sp.z.o.o.", "Foo S.p.A.",
        "Bar S.r.l.",
        "Yahoo! Inc.", "Mr.Wang", "Mrs.Ford", "jane.doe", "No.1 Pizza", "Re:Store GmbH", "Node.js Club", "D.Lu,M.Ma",
        "J.Coşkun", "Dr.Müller", "Zs.Szabó", "J.Page", "J.Cash", "O.Doctor", "Mr.Rich",
        "\u0645\u06cc\u200c\u062e\u0648", "❤\ufe0f Kim",
    ],
)  # fmt: skip
def test_names_of_people_and_companies_are_no_links(name: str) -> None:
    assert not looks_like_link(name)


@pytest.mark.parametrize(
    "text",
    [
        # The same letters as titles and initials, written as domains or with a path
        "x.med", "dr.kim", "j.ng", "J.Ng/x", "Dr.med/x", "Dr.med?x", "t.me", "T.ME", "X.Com", "G.Co", "Mr.Foo.com",
        "1.tk", "q.tk",
        "Evil.Kim", "My.Bank", "Paypal.Support", "AMAZON.DE", "bit.ly", "V.Gd", "evil.com/Dr.med",
        # What surrounds the domain
        "(evil.com)", '"evil.com"', "evil.com,hi", "evil.com!", "evil.com-x", "evil.com_", "访问evil.com现在",
        "пример.рф现在",
        "evil.com2.org", "sub.evil.co.uk", "evil.nom.za", "evil.ck", "evil.unknown/x", "evil.unknown:8080", "😀.tk",
        "i❤.ws",
        # Characters that are not displayed, and those that are equal to others
        "evil\u200d.com", "evil.\ufe0fcom", "evil.c\u034fom", "\u24d4vil.\u24d2\u24de\u24dc", "evil\uff61com",
        *(f"evil.com{one}bonus" for one in "\u200c\u200d\ufe0f\u3164\u115f\u17b4\uffa0\U000e0101\u0301\u20dd"),
        "пример.рф\u200cд", "T.Me\ufe0fx", "evil.comé", "evil.COMÉ", "evil.com\u0663",
        "evil.com\u00b2", "evil.com\uff12", "evil.com\u017f", "пример.рф\u0663",
        # Words that are hardly surnames
        "T.Ly", "Dr.Support", "A.Bank", "Mr.Pizza", "J.Zone",
        # Other links
        "mailto:x", "tel:+1", "skype:x?call", r"\\evil\share", "ftp://x",
    ],
)  # fmt: skip
def test_what_mail_programs_link_is_found(text: str) -> None:
    assert looks_like_link(text)
    assert looks_like_link(f"Your card was charged. {text} Jane")


@given(st.text(st.sampled_from(".-_@ aZé9\u0301中\u200d\ufe0f\U0001f600/:")) | st.text(max_size=40))
def test_no_text_is_too_odd(text: str) -> None:
    assert looks_like_link(text) in (True, False)
    assert looks_like_link(text + " evil.com")
