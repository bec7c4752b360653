"""The generated pages of the documentation are current."""

from __future__ import annotations

import importlib.util

import pytest
from places import DOCS


@pytest.mark.parametrize("page", ["configuration", "keys", "models"])
def test_a_generated_page_is_current(page: str) -> None:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec and spec.loader
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    text = (DOCS / f"{page}.md").read_text("utf-8")
    assert text == getattr(generate, page)(), "run `python docs/generate.py` and commit what it writes"
