"""A kind of export: the merged model in one zip archive, `ftbench export RUN --to zip`."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from engine.runs.run.export_formats import ExportFormat

FORMAT = ExportFormat(
    "zip archives", "one file", default="bf16", types=("bf16",), weights="*.zip", module="ftbench_example_exporter"
)
LIBRARY, TITLE, USAGE = "transformers", "A zip archive of a model fine-tuned from", "Unpack it first."


def merged_type(weights: str) -> str:
    return weights


def write(run: Any, weights: str, merged: Path, folder: Path, progress: Any) -> None:
    progress("packing")
    shutil.make_archive(str(folder / "model"), "zip", merged)


def check(job: Any, progress: Any) -> Any:
    """The unpacked model, as the core checks merged weights."""
    from engine.export.artifact_check import check as check_merged  # torch, which the bench does not import

    with tempfile.TemporaryDirectory() as unpacked:
        shutil.unpack_archive(Path(job.artifact) / "model.zip", unpacked)
        return check_merged(msgspec.structs.replace(job, kind="merged", artifact=unpacked), progress)
