"""One class name is used for one thing, so a reader who knows it from one module is not misled in another.

Counted are the public classes at the top of the product's modules and of tests/kits. Private classes and what single
tests define are read where they are defined, and may repeat a name.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.paths import ROOT
from tests.unit.test_file_length import python_files

ONE_THING_IN_TWO_PLACES = {
    "Unsubscriptions": "the part of sinks/email that the gateway needs, declared where it is needed",
}
_CLASS = re.compile(r"^class ([A-Za-z]\w*)", re.MULTILINE)


def repeated_names(root: Path, files: Iterable[Path]) -> dict[str, list[str]]:
    """The files that define a class, by its name, for each name that is defined more than once."""
    found = defaultdict[str, list[str]](list)
    for path in files:
        place = path.relative_to(root)
        # An example is a package of its own.
        if place.parts[0] == "examples" or (place.parts[0] == "tests" and place.parts[1] != "kits"):
            continue
        for name in _CLASS.findall(path.read_text(encoding="utf-8")):
            found[name].append(str(place))
    return {name: places for name, places in found.items() if len(places) > 1}


def test_no_class_name_is_used_for_two_things() -> None:
    repeated = repeated_names(ROOT, python_files(ROOT))
    assert {name: places for name, places in repeated.items() if name not in ONE_THING_IN_TWO_PLACES} == {}
    assert ONE_THING_IN_TWO_PLACES.keys() <= repeated.keys(), "a listed name is unique now: remove it from the list"


def test_a_repeated_name_is_found(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    for name, text in {"a.py": "class Page:\n", "b.py": "class Page(str):\n", "tests/c.py": "class Page:\n"}.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "d.py").write_text("class _Page:\n    class Page: ...\n")
    assert repeated_names(tmp_path, sorted(tmp_path.rglob("*.py"))) == {"Page": ["a.py", "b.py"]}
