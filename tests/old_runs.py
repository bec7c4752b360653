"""Runs and a ladder written by the code before split version 2, stored in `tests/fixtures/split_v1`.

Recorded by commit 914ef99 with the embedded model of 2026-11-28, as is `old_runs/killed-0.1.0`: a run does not resume
with another model or tokenizer. A new embedded model needs new records.
"""

from __future__ import annotations

from pathlib import Path

STORED = Path(__file__).parent / "fixtures" / "split_v1"
RUN = "20261128-011310-demo-lora-2882"
"""A finished run that scores 5 of its 6 test rows."""
LADDER = "20261128-011319-demo-ladder-3301"
LADDER_RUNS = ("20261128-011337-demo-lora-05d7", "20261128-011345-demo-full-9762")
MADE_OF = "/tmp/oldfix/rows.jsonl"
"""The original path of their data, which is part of a ladder run's fingerprint."""


def unpack(runs: Path) -> Path:
    """Copy them to a runs folder and the data file next to it; returns the data file."""
    data = runs.parent / "rows.jsonl"
    data.write_bytes((STORED / "rows.jsonl").read_bytes())
    for folder in (path for path in STORED.iterdir() if path.is_dir()):
        made = runs / folder.name
        made.mkdir(parents=True, mode=0o700)
        for file in folder.iterdir():
            (made / file.name).write_text(file.read_text().replace("@DATA@", str(data)))
    return data
