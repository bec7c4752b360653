"""A release: the tag, the version and the changelog agree before anything is built."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import tomli
from places import ROOT

import engine


def released(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([folder / ".ci" / "release", tag], capture_output=True, text=True, timeout=60)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads, with a `python3` that must not be reached."""
    for name in (".ci/release", "engine/__init__.py", "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def test_another_tag_or_a_version_without_changes_is_refused(checkout: Path) -> None:
    done = released(checkout, "v9.9.9")
    assert done.returncode == 1 and "v9.9.9" in done.stderr
    changes = checkout / "CHANGELOG.md"
    changes.write_text(re.sub(rf"(?m)^## \[{re.escape(engine.__version__)}\].*$", "", changes.read_text()))
    done = released(checkout, f"v{engine.__version__}")
    assert done.returncode == 1 and f"[{engine.__version__}]" in done.stderr


def test_constraints_are_within_the_ranges_of_the_project() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints-cuda.txt").read_text().splitlines()
    pinned = dict(line.lower().split("==") for line in lines if "==" in line)
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        need = Requirement(text)
        assert need.specifier.contains(pinned[need.name.lower()]), text
