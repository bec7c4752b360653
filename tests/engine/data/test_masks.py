"""Compare the loss masks with those of trl, LLaMA-Factory and axolotl for the same rows.

`tools/masks.py` runs the peers and stores their answers for the embedded tokenizer; every difference is
explained in `tools/masks/explained.py`. trl is also run here.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from places import TOOLS

from engine.assets import tiny_folder

FOLDER = TOOLS / "masks"
sys.path.insert(0, str(FOLDER))

from compare import LINE_FEED, differences, ours, sha256, template_text  # noqa: E402 - the path above makes it importable
from explained import EXPLAINED  # noqa: E402
from shapes import SHAPES, Shape  # noqa: E402

STORED = json.loads((FOLDER / "stored.json").read_text("utf-8"))
BY_NAME = {shape.name: shape for shape in SHAPES}
MADE = sorted(name for name, made in STORED["made"].items() if "rows" in made)


@functools.cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_folder())


@functools.cache
def mine(name: str) -> list[Any]:
    """Our rows of a shape; restores the tokenizer's template."""
    template = tokenizer().chat_template
    try:
        return ours(BY_NAME[name], tokenizer())
    finally:
        tokenizer().chat_template = template


def same_template(shape: Shape) -> bool:
    """Whether the peers used the current template; those of Qwen come from the installed trl."""
    same = sha256(template_text(shape, tokenizer())) == STORED["templates"][shape.template]
    assert same or shape.template != "own", "the embedded template changed: run tools/masks.py --store again"
    return same


@pytest.mark.parametrize("case", MADE)
def test_the_mask_differs_from_a_peers_only_where_that_is_explained(case: Any) -> None:
    tool, name = case.split("/", 1)
    if not same_template(BY_NAME[name]):
        pytest.skip("the installed trl ships another template")
    made = STORED["made"][case]
    row_differences = [
        differences(our, their, tokenizer()) for our, their in zip(mine(name), made["rows"], strict=True)
    ]
    assert row_differences == made["differences"]
    assert all(set(row) <= set(LINE_FEED) for row in row_differences) or (tool, name) in EXPLAINED


def test_every_shape_is_compared_with_every_peer() -> None:
    assert {case.split("/", 1)[0] for case in STORED["made"]} == {"trl", "LLaMA-Factory", "axolotl"}
    assert len(MADE) == len(STORED["made"]) == 3 * len(SHAPES)


@pytest.mark.slow
def test_the_installed_trl_makes_what_is_stored(tmp_path: Path) -> None:
    pytest.importorskip("trl")
    import with_trl
    from job import mask

    for shape in [shape for shape in SHAPES if same_template(shape)]:
        told = {**shape.as_json(), "template_text": template_text(shape, tokenizer())}
        rows = [with_trl.prepare(told, row, str(tiny_folder()), tmp_path) for row in shape.rows]
        stored = STORED["made"][f"trl/{shape.name}"]["rows"]
        assert [row and row[0] for row in rows] == [row and row["ids"] for row in stored], shape.name
        assert [row and mask(row[1]) for row in rows] == [row and row["mask"] for row in stored], shape.name
