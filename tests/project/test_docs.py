"""The generated pages of the documentation are current."""

from __future__ import annotations

import importlib.util

import pytest
from places import DOCS, ROOT


@pytest.mark.parametrize("page", ["configuration", "keys", "models"])
def test_a_generated_page_is_current(page: str) -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = (DOCS / f"{page}.md").read_text("utf-8")
    assert text == getattr(generate, page)(), "run `python docs/generate.py` and commit what it writes"


def test_ci_runs_the_command_of_the_readme() -> None:
    commands = [
        line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if "venv" in line and "pytest" in line
    ]
    assert len(commands) == 1
    assert f"  {commands[0]}\n" in (ROOT / ".ci" / "run").read_text("utf-8")
