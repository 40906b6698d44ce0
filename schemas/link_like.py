"""Finds what mail programs turn into a link in plain text, so that a name cannot carry one.

A domain is letters, a dot and an ending of the Public Suffix List. People also write such texts without meaning a
domain: titles (Dr.med.), forms of companies (Co.Ltd) and initials (J.Ng). Those stay, unless a path follows.
"""

from __future__ import annotations

import itertools
import re
import string
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from publicsuffixlist import PSLFILE

_LINK = re.compile(
    r"://|@|\bwww\.|\\\\\w|\b(?:mailto|tel|sms|callto|skype|data|file|javascript|news):\S"
    r"|\b\d{1,3}(?:\.\d{1,3}){3}\b|\d(?:[ ().+/-]{0,3}\d){6}",
    re.IGNORECASE,
)
"""An address, a scheme, a file server, an IP address, or a telephone number."""
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff61\uff0e\u2024\ufe52", "."))
"""Characters that browsers take for the dot of a domain."""
_INVISIBLE = (
    *(0x34F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x200C, 0x200D, 0x3164, 0xFFA0),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
)
"""Characters that are not displayed, and that domains do not have: joiners, fillers, variation selectors."""
_WITHOUT_THEM, _APART_BY_THEM = dict.fromkeys(_INVISIBLE), dict.fromkeys(_INVISIBLE, " ")
_DOTTED = re.compile(r"[^\s.,;!?()\[\]{}<>\"'|/\\:#]+(?:\.[^\s.,;!?()\[\]{}<>\"'|/\\:#]+)+")
_ASCII_LETTERS = re.compile(r"[a-z]+", re.IGNORECASE | re.ASCII)
_PATH = re.compile(r"\.?[/:?#]\S")
"""What makes a link of any letters with a dot before it."""
_OF_PATH = re.compile(r"[a-z][a-z]+\Z", re.IGNORECASE)

_RESERVED = frozenset(["corp", "example", "home", "internal", "invalid", "lan", "local", "localhost", "onion", "test"])
"""Endings that are not public, but may be links in some networks, and those that examples use."""
_SOLD = """
com net org edu gov mil int info biz app dev xyz top site online shop store club click vip icu pro name mobi
io me tv cc gg ws gd gl co ai
"""
_TITLES_AND_FORMS = """
arch avv bc c capt col dent dipl dott dr drs dra esq fco fr gen geom h habil hc hon hr ing iur jr jud jur lic lt
ma mag maj med mgr mr mrs ms mt mx nat oec ph phil pol prof rag rer rev sgt sig sr sra srta st sta ste vet wm
ag bhd bros co corp gmbh inc kg llc llp ltd plc pte pty pvt sa sdn sp srl
"""
_WORDS = """
ly agency auction bank bet bid business casino center chat clinic codes company computer contact credit creditcard
deals digital directory discount domains download email exchange express finance financial forex fund games gifts
global guide help hosting insurance investments limited live loan loans market marketing markets media money
network news online parts party pharmacy photos pics pizza plus poker porn press promo properties review reviews
run schule security services sex sexy shopping social software solutions space support systems tax team
tech technology tickets tips today tools trading training tube ventures video website wiki work works world
wtf xxx zip zone
"""
_NO_SURNAMES = frozenset([*_SOLD.split(), *_WORDS.split()])
"""Endings after which initials and titles make a domain: x.com, t.me, Dr.Support. Others are surnames, too, and stay
with a capital: J.Ng, Dr.Kim, Mr.Rich. So a name may have such a domain, without a path."""
_TITLES = frozenset(_TITLES_AND_FORMS.split())
"""Abbreviations before or after a name, and forms of companies, which are often written without a space."""
_PARTICLES = frozenset(["de", "do", "la"])
"""Words before a surname that are also endings: J.de Vries."""


def looks_like_link(text: str) -> bool:
    """Returns whether a mail program may turn a part of the text into a link.

    Programs differ in whether a domain continues after a character that is not displayed, or has another form.
    """
    dotted = text.translate(_DOTS)
    forms = {unicodedata.normalize("NFKC", dotted.translate(table)) for table in (_WITHOUT_THEM, _APART_BY_THEM)}
    return any(_has_link(form) for form in {dotted, *forms})


def _has_link(text: str) -> bool:
    return bool(_LINK.search(text)) or any(_is_domain(text, found) for found in _DOTTED.finditer(text))


def _is_domain(text: str, found: re.Match[str]) -> bool:
    labels, after = found.group().split("."), text[found.end() :]
    has_path = _PATH.match(after) is not None
    if has_path and _OF_PATH.fullmatch(labels[-1]):
        return True
    for at, label in enumerate(labels[1:], 1):
        if not any(is_ending(one) for one in _ends(label)):
            continue
        rest = after if at == len(labels) - 1 else ""
        if has_path or not _is_of_name(labels[:at], label, rest):
            return True
    return False


def _is_of_name(before: list[str], last: str, after: str) -> bool:
    """Returns whether the label is a part of a name after titles or initials."""
    lower = last.lower()
    are_initials = all(map(_is_initial, before))
    if lower in _NO_SURNAMES or not all(one.lower() in _TITLES or _is_initial(one) for one in before):
        return False
    if lower in _TITLES:
        return not are_initials or last[0].isupper()
    if lower in _PARTICLES and last.islower():
        return are_initials and after[:1] == " " and after[1:2].isupper()
    return last[0].isupper() and before[0].strip("-")[:1].isupper()  # domains are in small letters


def _is_initial(label: str) -> bool:
    """Returns whether it is J, -P or J-P."""
    letters = label.removeprefix("-").split("-")
    return all(len(one) == 1 and one.isupper() for one in letters)


def _ends(label: str) -> Iterator[str]:
    """Yields what may be the ending: the whole label, and its letters before a character of another script.

    Many programs know only ASCII letters and digits, so an ending also ends before any other character: evil.comé.
    """
    yield label.lower()
    script = _script(label[0])
    start = "".join(itertools.takewhile(lambda one: _script(one) in (script, ""), label))
    if start != label and label[len(start)] not in string.digits:
        yield start.lower()
    letters = _ASCII_LETTERS.match(label)
    if letters is not None and not label[letters.end() :][:1].isascii():
        yield letters.group().lower()


def _script(one: str) -> str:
    """Returns the first word of the letter's name, which is its script; '' for marks, which belong to any."""
    if unicodedata.category(one)[0] == "M":
        return ""
    return unicodedata.name(one, "?").split()[0].partition("-")[0]


def is_ending(label: str) -> bool:
    """Returns whether domains end so: letters in any script, or Punycode, without capitals."""
    return label in _RESERVED or label in endings()


@cache
def endings() -> frozenset[str]:
    """Returns all endings, also in Punycode. Read when the first name with a dot needs them: it takes 20 ms."""
    lines = (line.strip() for line in Path(PSLFILE).read_text(encoding="utf-8").splitlines())
    found = {line.lower().rpartition(".")[2] for line in lines if line and not line.startswith("//")}
    return frozenset(found | {_punycode(one) for one in found if not one.isascii()})


def _punycode(label: str) -> str:
    return "xn--" + label.encode("punycode").decode()
