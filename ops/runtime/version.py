"""The version of this build and the commit it was made from."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

PACKAGE = "billing-stream"

_ROOT = Path(__file__).parents[2]
_BUILD = Path(__file__).with_name("BUILD")
"""What `git describe` said when the image was built (Dockerfile)."""
_GIT_S = 5.0


def version_line() -> str:
    """Returns the package's version, and BILLING_CODE_VERSION or the build in parentheses if one is known."""
    try:
        version = distribution(PACKAGE).version
    except PackageNotFoundError:
        version = "of an unknown version (not installed)"
    built = os.environ.get("BILLING_CODE_VERSION") or _described() or _installed_commit() or _checked_out_commit()
    return f"{PACKAGE} {version}" + (f" ({built})" if built else "")


def _described() -> str | None:
    return (_BUILD.read_text().strip() or None) if _BUILD.exists() else None


def _installed_commit() -> str | None:
    """Return the commit that pip installed, if it installed from a repository (PEP 610)."""
    try:
        text = distribution(PACKAGE).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    commit = json.loads(text or "{}").get("vcs_info", {}).get("commit_id")
    return str(commit)[:12] if commit else None


def _checked_out_commit() -> str | None:
    """Return the commit of the checkout that this code runs from."""
    if not (_ROOT / ".git").exists():
        return None
    try:
        done = subprocess.run(  # noqa: S603  # fixed arguments
            ["git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD"],  # noqa: S607  # git of the PATH
            capture_output=True,
            text=True,
            timeout=_GIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
