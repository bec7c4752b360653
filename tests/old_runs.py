"""Runs and a ladder written by the release before split version 2, stored in `tests/fixtures/split_v1`."""

from __future__ import annotations

from pathlib import Path

STORED = Path(__file__).parent / "fixtures" / "split_v1"
RUN = "20261126-060048-demo-lora-365d"
"""A finished run that scores 5 of its 6 test rows."""
LADDER = "20261126-060105-demo-ladder-24f5"
LADDER_RUNS = ("20261126-060140-demo-lora-4748", "20261126-060200-demo-full-dea0")
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
