"""Words that a reader stumbles over appear neither in the code nor in the documents.

The names of Python code may not contain `told`, since it does not say who reported what.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.paths import ROOT

WORDS = {
    r"nobody": "no one, no process; or name who does it",
    r"beside the flow": "what the module does",
    r"(?:came|comes|come|coming|became|becomes|become) of": "result, outcome",
    r"under way": "in flight, running",
    r"stands(?! still)": "is, has reached, means",
    r"in hand(?!-)": "in flight, being processed, claimed",
    r"anew": "again",
    r"for ever": "no limit, permanently",
    r"amid": "during, in the middle of",
    r"dear": "expensive",
}
"""Word or phrase, as a regular expression: what to write instead."""

# A file and the words it may use, with the reason.
ALLOWED = {
    "tests/unit/test_words.py": (*WORDS, "told"),  # this list
    "CHANGELOG.md": tuple(WORDS),  # entries of the past stay as they were published
    "local/stack/launch.py": ("nobody",),  # the Unix user of that name
    "tests/kits/pgbouncerkit.py": ("nobody",),  # the same
}

_SKIPPED = {"out", "build", "dist"}
_GAP = r"[\s#]+"  # between the words of a phrase: the end of a line of a comment too
_PATTERNS = {word: re.compile(rf"\b{word.replace(' ', _GAP)}\b", re.IGNORECASE) for word in WORDS}
_ANY = re.compile("|".join(pattern.pattern for pattern in _PATTERNS.values()), re.IGNORECASE)
"""One pass over a text, since hardly any has one of the words."""
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def _folders() -> list[Path]:
    folders = [path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(path for path in folders if path.name not in _SKIPPED)


FILES = sorted(
    [*ROOT.glob("*.md"), *(file for folder in _folders() for end in ("*.py", "*.md") for file in folder.rglob(end))]
)


def words_in(text: str, allowed: tuple[str, ...] = ()) -> list[str]:
    """`line: word` for each word of WORDS in a text; a phrase may break over two lines of a comment."""
    if _ANY.search(text) is None:
        return []
    return [
        f"{text.count(chr(10), 0, found.start()) + 1}: {' '.join(found[0].split())} (write: {WORDS[word]})"
        for word, pattern in _PATTERNS.items()
        if word not in allowed
        for found in pattern.finditer(text)
    ]


def names_with_told(source: str) -> list[str]:
    """`line: name` for each identifier that Python code defines or uses and that contains the word `told`."""
    if "told" not in source.lower():  # parsing every file would take seconds
        return []
    return [
        f"{line}: {name}"
        for line, name in _names(ast.parse(source))
        if "told" in (part.lower() for part in _PARTS.findall(name))
    ]


def _names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg() | ast.keyword() if node.arg is not None:
                yield node.lineno, node.arg
            case ast.Name():
                yield node.lineno, node.id
            case ast.Attribute():
                yield node.lineno, node.attr
            case ast.alias():
                yield node.lineno, node.asname or node.name


def found_in(file: Path) -> list[str]:
    """What a file may not say."""
    allowed = ALLOWED.get(str(file.relative_to(ROOT)), ())
    text = file.read_text()
    names = names_with_told(text) if file.suffix == ".py" and "told" not in allowed else []
    return words_in(text, allowed) + names


def test_every_text_is_plain_english() -> None:
    """One test for a thousand files: a test for each costs more than reading the file."""
    assert len(FILES) > 900
    assert {str(file.relative_to(ROOT)): found for file in FILES if (found := found_in(file))} == {}


def test_a_word_or_name_is_found() -> None:
    assert [found.split(" (")[0] for found in words_in("A\n# what came\n# of it, under\n# way\nNobody")] == [
        "5: Nobody",
        "2: came # of",
        "3: under # way",
    ]
    assert words_in("nobody", ("nobody",)) == []
    assert words_in("a hand-kept list in hand-written code, under weigh, forever") == []
    assert names_with_told("def was_told(x): ...\ntold_by = old.toldYou\nstold = ToldAll") == [
        "1: was_told",
        "2: told_by",
        "2: toldYou",
        "3: ToldAll",
    ]
