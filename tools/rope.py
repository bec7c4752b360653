"""RoPE of every family of the installed transformers: rows computed together against each row alone by transformers.

    python tools/rope.py                # all families and types of RoPE, about 0.2 s of CPU time for each
    python tools/rope.py phi3 llama     # some families

Tiny random models in float32, rows of 5 to 51 tokens around a limit of 24. A line for each type: of how many families
gradients (as packed by a worker, and padded), held-out losses and greedy answers are equal to rounding; then those that
are not, or that transformers cannot compute. The table is in RESULTS.md.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from family_checks import Result, attempt, check_rope
from tiny_configs import ROPE_TYPES, installed_families

EQUAL = 1e-3
"""Largest relative difference of gradients, or difference of losses in nats."""


def is_equal(row: Result) -> bool:
    return max(row["gradient"], row["padded"], row["losses"]) < EQUAL and not row["answers"]


def main() -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for rope in ROPE_TYPES:
        found = {kind: attempt(lambda: check_rope(kind, rope)) for kind in sys.argv[1:] or installed_families()}  # noqa: B023
        rows = {kind: row for kind, row in found.items() if row}
        failed = {kind: row for kind, row in rows.items() if "state" in row}
        computed = {kind: row for kind, row in rows.items() if kind not in failed}
        alone = [kind for kind, row in computed.items() if row["packing"] == "one row at a time"]
        different = {kind: row for kind, row in computed.items() if not is_equal(row)}
        print(
            f"{rope:9} {len(computed) - len(different)} of {len(computed)} equal, one row at a time: {alone}",
            flush=True,
        )
        for kind, row in different.items():
            print(f"          {kind}: {row}")
        for kind, row in failed.items():
            print(f"          {kind}: {row['error']}")


if __name__ == "__main__":
    main()
