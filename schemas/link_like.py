"""Finds what mail programs turn into a link in plain text, so that a name cannot carry one."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterator

_LINK = re.compile(
    r"://|@|\bwww\.|[\w-]\.[a-z]{2,}(?![a-z0-9])|\b\d{1,3}(?:\.\d{1,3}){3}\b|\d(?:[ ().+/-]{0,3}\d){6}",
    re.IGNORECASE,
)
"""An address, a domain, an IP address, or a telephone number."""
_CODES = """
xn--11b4c3d
xn--1ck2e1b
xn--1qqw23a
xn--2scrj9c
xn--30rr7y
xn--3bst00m
xn--3ds443g
xn--3e0b707e
xn--3hcrj9c
xn--3pxu8k
xn--42c2d9a
xn--45br5cyl
xn--45brj9c
xn--45q11c
xn--4dbrk0ce
xn--4gbrim
xn--54b7fta0cc
xn--55qw42g
xn--55qx5d
xn--5su34j936bgsg
xn--5tzm5g
xn--6frz82g
xn--6qq986b3xl
xn--80adxhks
xn--80ao21a
xn--80aqecdr1a
xn--80asehdb
xn--80aswg
xn--8y0a063a
xn--90a3ac
xn--90ae
xn--90ais
xn--9dbq2a
xn--9et52u
xn--9krt00a
xn--b4w605ferd
xn--bck1b9a5dre4c
xn--c1avg
xn--c2br7g
xn--cck2b3b
xn--cckwcxetd
xn--cg4bki
xn--clchc0ea0b2g2a9gcd
xn--czr694b
xn--czrs0t
xn--czru2d
xn--d1acj3b
xn--d1alf
xn--e1a4c
xn--eckvdtc9d
xn--efvy88h
xn--fct429k
xn--fhbei
xn--fiq228c5hs
xn--fiq64b
xn--fiqs8s
xn--fiqz9s
xn--fjq720a
xn--flw351e
xn--fpcrj9c3d
xn--fzc2c9e2c
xn--fzys8d69uvgm
xn--g2xx48c
xn--gckr3f0f
xn--gecrj9c
xn--gk3at1e
xn--h2breg3eve
xn--h2brj9c
xn--h2brj9c8c
xn--hxt814e
xn--i1b6b1a6a2e
xn--imr513n
xn--io0a7i
xn--j1aef
xn--j1amh
xn--j6w193g
xn--jlq480n2rg
xn--jvr189m
xn--kcrx77d1x4a
xn--kprw13d
xn--kpry57d
xn--kput3i
xn--l1acc
xn--lgbbat1ad8j
xn--mgb9awbf
xn--mgba3a3ejt
xn--mgba3a4f16a
xn--mgba7c0bbn0a
xn--mgbaam7a8h
xn--mgbab2bd
xn--mgbah1a3hjkrd
xn--mgbai9azgqp6j
xn--mgbayh7gpa
xn--mgbbh1a
xn--mgbbh1a71e
xn--mgbc0a9azcg
xn--mgbca7dzdo
xn--mgbcpq6gpa1a
xn--mgberp4a5d4ar
xn--mgbgu82a
xn--mgbi4ecexp
xn--mgbpl2fh
xn--mgbt3dhd
xn--mgbtx2b
xn--mgbx4cd0ab
xn--mix891f
xn--mk1bu44c
xn--mxtq1m
xn--ngbc5azd
xn--ngbe9e0a
xn--ngbrx
xn--node
xn--nqv7f
xn--nqv7fs00ema
xn--nyqy26a
xn--o3cw4h
xn--ogbpf8fl
xn--otu796d
xn--p1acf
xn--p1ai
xn--pgbs0dh
xn--pssy2u
xn--q7ce6a
xn--q9jyb4c
xn--qcka1pmc
xn--qxa6a
xn--qxam
xn--rhqv96g
xn--rovu88b
xn--rvc1e0am3e
xn--s9brj9c
xn--ses554g
xn--t60b56a
xn--tckwe
xn--tiq49xqyj
xn--unup4y
xn--vermgensberater-ctb
xn--vermgensberatung-pwb
xn--vhquv
xn--vuq861b
xn--w4r85el8fhu5dnra
xn--w4rs40l
xn--wgbh1c
xn--wgbl6a
xn--xhq521b
xn--xkc2al3hye2a
xn--xkc2dl3a5ee0h
xn--y9a3aq
xn--yfro4i67o
xn--ygbi2ammx
xn--zfr164b
"""
INTERNATIONAL = frozenset(_CODES.split())
"""Endings of domains in other scripts, in Punycode. Other words after a dot are common in names: titles, initials."""
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff61\uff0e\u2024\ufe52", "."))
"""Characters that browsers take for the dot of a domain."""
_GENERIC = "com|net|org|edu|gov|info|biz|app|dev|xyz|top|site|online|shop|store|club|click|vip|icu"
_INITIAL = re.compile(rf"\b[A-Z]\.(?=[A-Z])(?!(?i:[a-z]{{2}}|{_GENERIC})(?![a-zA-Z])|[\w-]+[/:?#])")
"""Initials without a space, such as J.R.Smith, are no link. T.ME and X.COM, which end as domains do, are."""


def looks_like_link(text: str) -> bool:
    """Returns whether a mail program may turn a part of the text into a link."""
    plain = unicodedata.normalize("NFKC", text.translate(_DOTS))
    return bool(_LINK.search(_INITIAL.sub("", plain))) or any(
        _punycode(label) in INTERNATIONAL for label in _endings(plain)
    )


def _endings(text: str) -> Iterator[str]:
    """Yields the letters after each dot. Those of some scripts contain marks, which are no `\\w`."""
    for part in text.lower().split(".")[1:]:
        label = "".join(itertools.takewhile(_is_of_label, part))
        if label and not label.isascii():
            yield label


def _is_of_label(one: str) -> bool:
    return one == "-" or unicodedata.category(one)[0] in "LMN" or one == "\u200d"


def _punycode(label: str) -> str:
    return "xn--" + label.encode("punycode").decode()
