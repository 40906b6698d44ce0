"""No Python file is longer than 400 lines: a longer one has parts that can be named."""

from __future__ import annotations

from pathlib import Path

from tests.paths import ROOT

LIMIT = 400
LONGER: frozenset[str] = frozenset()
"""Files that may be longer. There are none."""


def python_files(root: Path) -> list[Path]:
    """All files of the project; hidden folders contain environments and caches."""
    return [
        path for path in root.rglob("*.py") if not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]


def too_long(root: Path) -> dict[str, int]:
    lengths = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files(root)
    }
    return {name: length for name, length in lengths.items() if length > LIMIT and name not in LONGER}


def test_no_file_is_longer_than_the_limit() -> None:
    assert too_long(ROOT) == {}


def test_a_longer_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "long.py").write_text("pass\n" * (LIMIT + 1))
    (tmp_path / "short.py").write_text("pass\n" * LIMIT)
    assert too_long(tmp_path) == {"folder/long.py": LIMIT + 1}
