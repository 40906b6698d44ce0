"""Writes what an installation consists of: a CycloneDX bill of materials, and a list of licences (`make sbom`).

Reads requirements.lock, which the image is built from, and the licences from the installed packages.
"""

from __future__ import annotations

import json
import re
import tomllib
import uuid
from argparse import ArgumentParser
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)(?: ; (.+?))?(?: \\)?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^    # (?:via|  ) ?([a-z0-9][\w.-]*)")


@dataclass
class Package:
    """One pinned package of a lock file."""

    name: str
    version: str
    marker: str = ""
    """On which platforms it is installed; empty: on all."""
    hashes: list[str] = field(default_factory=list)
    """SHA-256 of each of its files on the index."""
    wanted_by: list[str] = field(default_factory=list)

    @property
    def purl(self) -> str:
        return f"pkg:pypi/{self.name.lower().replace('_', '-')}@{self.version}"

    @property
    def license(self) -> str:
        """The SPDX expression or the name of its licence; `unknown` where it is not installed here or has none."""
        try:
            found = metadata(self.name)
        except PackageNotFoundError:
            return "unknown"
        for key in ("License-Expression", "License"):
            text = found.get(key) or ""
            if text and "\n" not in text and len(text) <= 60:
                return str(text)
        names = [each.rpartition(" :: ")[2] for each in found.get_all("Classifier") or () if each.startswith("License")]
        return " AND ".join(name for name in names if name != "OSI Approved") or "unknown"


def packages(lock: str) -> Iterator[Package]:
    """Returns the packages of a lock file's text. Raises ValueError for a line that is none of its kinds."""
    package: Package | None = None
    for line in lock.splitlines():
        if found := _PIN.match(line):
            if package:
                yield package
            package = Package(found[1], found[2], found[3] or "")
        elif package and (hashed := _HASH.search(line)):
            package.hashes.append(hashed[1])
        elif package and line.startswith("    #"):
            if via := _VIA.match(line):
                package.wanted_by.append(via[1])
        elif line.strip():
            raise ValueError(f"not understood: {line}")
    if package:
        yield package


def bill(lock: str, version: str) -> dict[str, Any]:
    """Returns the bill of materials. It is the same for the same lock file, version and licences."""
    found = list(packages(lock))
    own = f"pkg:pypi/billing-stream@{version}"
    needs: dict[str, list[str]] = {own: []} | {package.purl: [] for package in found}
    purls = {package.name: package.purl for package in found}
    for package in found:
        for parent in package.wanted_by:
            needs[purls.get(parent, own)].append(package.purl)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, own + lock)}",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": "billing-stream",
                "version": version,
                "bom-ref": own,
                "purl": own,
            }
        },
        "components": [_component(package) for package in found],
        "dependencies": [{"ref": ref, "dependsOn": sorted(set(wanted))} for ref, wanted in sorted(needs.items())],
    }


def _component(package: Package) -> dict[str, Any]:
    return {
        "type": "library",
        "name": package.name,
        "version": package.version,
        "bom-ref": package.purl,
        "purl": package.purl,
        "licenses": [{"license": {"name": package.license}}],
        "externalReferences": [
            {
                "type": "distribution",
                "url": package.purl,
                "hashes": [{"alg": "SHA-256", "content": content} for content in package.hashes],
            }
        ],
        **({"properties": [{"name": "billing:marker", "value": package.marker}]} if package.marker else {}),
    }


def main(folder: Path) -> None:
    """Writes `sbom.cdx.json` and `licenses.txt` into the folder."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    lock = (ROOT / "requirements.lock").read_text()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sbom.cdx.json").write_text(json.dumps(bill(lock, version), indent=2) + "\n")
    lines = [f"{package.name} {package.version}: {package.license}" for package in packages(lock)]
    (folder / "licenses.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    parser = ArgumentParser(description="Lists what an installation consists of: sbom.cdx.json and licenses.txt.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the two files are written")
    main(parser.parse_args().folder)
