"""Finds what mail programs turn into a link in plain text, so that a name cannot carry one."""

from __future__ import annotations

import re
import unicodedata

_LINK = re.compile(
    r"://|@|\bwww\.|[\w-]\.[a-z]{2,}(?![a-z0-9_.])|\b\d{1,3}(?:\.\d{1,3}){3}\b|\d(?:[ ().+/-]{0,3}\d){6}",
    re.IGNORECASE,
)
"""An address, a domain, an IP address, or a telephone number."""
_ENDING = re.compile(r"[\w-]\.([^\W\d_]+)(?!\w)")
_CODES = (
    "xn--11b4c3d xn--2scrj9c xn--3ds443g xn--3e0b707e xn--3hcrj9c xn--42c2d9a xn--45brj9c xn--4dbrk0ce xn--4gbrim "
    "xn--54b7fta0cc xn--55qx5d xn--6qq986b3xl xn--80adxhks xn--80ao21a xn--80asehdb xn--80aswg xn--90a3ac xn-- "
    "90ae xn--90ais xn--9dbq2a xn--c1avg xn--c2br7g xn--cck2b3b xn--clchc0ea0b2g2a9gcd xn--czru2d xn--d1acj3b xn "
    "--d1alf xn--e1a4c xn--fhbei xn--fiq228c5hs xn--fiqs8s xn--fiqz9s xn--fpcrj9c3d xn--fzc2c9e2c xn--gecrj9c xn "
    "--h2brj9c xn--i1b6b1a6a2e xn--io0a7i xn--j1aef xn--j1amh xn--j6w193g xn--kprw13d xn--kpry57d xn--l1acc xn-- "
    "lgbbat1ad8j xn--mgb9awbf xn--mgba3a4f16a xn--mgbaam7a8h xn--mgbai9azgqp6j xn--mgbayh7gpa xn--mgbbh1a71e xn-- "
    "mgbc0a9azcg xn--mix891f xn--mk1bu44c xn--ngbc5azd xn--ngbrx xn--node xn--o3cw4h xn--p1acf xn--p1ai xn-- "
    "q9jyb4c xn--qcka1pmc xn--qxa6a xn--qxam xn--rhqv96g xn--rvc1e0am3e xn--s9brj9c xn--ses554g xn--tckwe xn-- "
    "wgbh1c xn--wgbl6a xn--xkc2al3hye2a xn--xkc2dl3a5ee0h xn--y9a3aq xn--yfro4i67o "
)
_INTERNATIONAL = frozenset(_CODES.split())
"""Endings of domains in other scripts, in Punycode. Other words after a dot are common in names: titles, initials."""
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff61\uff0e\u2024\ufe52", "."))
"""Characters that browsers take for the dot of a domain."""
_INITIAL = re.compile(r"\b[A-Z]\.(?=[A-Z])")
"""Initials without a space, such as J.R.Smith, are no link."""


def looks_like_link(text: str) -> bool:
    """Returns whether a mail program may turn a part of the text into a link."""
    plain = _INITIAL.sub("", unicodedata.normalize("NFKC", text.translate(_DOTS)))
    if _LINK.search(plain):
        return True
    return any(_punycode(found[1]) in _INTERNATIONAL for found in _ENDING.finditer(plain))


def _punycode(label: str) -> str:
    return "xn--" + label.lower().encode("punycode").decode()
