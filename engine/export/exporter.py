"""Export a run: write the artifact to a temporary folder, check it in a new process, then move it into place."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import RunFailed
from engine.config.files import SCRATCH_PREFIX, is_no_space_error, locked_folder, remove_tree, temporary_folder
from engine.config.metric_specs import metric_spec
from engine.evaluation.intervals import bootstrap
from engine.evaluation.score import Item
from engine.export.artifact_files import (
    UNQUANTIZED,
    Base,
    Progress,
    write_adapter,
    write_common_files,
    write_gguf,
    write_merged,
)
from engine.export.card import write_card
from engine.export.check_job import Checked
from engine.export.checker import Checker
from engine.export.comparison import difference_of, loss_difference, run_items, scores_of
from engine.export.source import ExportRequest, Source, finished_run, refuse_existing, refuse_small_disk
from engine.methods.provenance import folder_bytes
from engine.runs.exports import DEFAULT_TYPES, FIDELITY, Candidate, Fidelity, WeightType, exports_folder, outcome_of


def export(request: ExportRequest, progress: Progress) -> tuple[Path, Fidelity]:
    """Export and check; returns the artifact's folder and its check.

    The run's directory is only added to. Raises UserError if the run cannot be exported like this, and RunFailed if the
    disk is full or the check does not finish; nothing half-written remains.
    """
    source = finished_run(request)
    dtype = request.type or DEFAULT_TYPES[request.kind]
    name = request.kind if request.kind == "adapter" else f"{request.kind}-{dtype}"
    final = request.out or exports_folder(source.run) / name
    refuse_existing(final, request.overwrite)
    refuse_small_disk(final, source, request.kind, dtype)
    try:
        with _folder_in_progress(final) as folder:
            fidelity = _write_and_check(source, request, dtype, folder, progress)
            write_card(folder, source.run, source.frozen, source.result, fidelity)
            (folder / FIDELITY).write_bytes(msgspec.json.format(msgspec.json.encode(fidelity), indent=1))
    except OSError as error:
        if is_no_space_error(error):
            text = f"cannot export {source.run.name}: no space left in {final.parent}; the run is unchanged"
            raise RunFailed(text, "export.disk_full") from error
        raise
    return final, fidelity


@contextlib.contextmanager
def _folder_in_progress(final: Path) -> Iterator[Path]:
    """A locked temporary folder next to `final`, renamed to it at the end and deleted on any error.

    The lock keeps `doctor --repair` from removing it while it is in use.
    """
    final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    remove_tree(temporary, ignore_errors=True)
    temporary.mkdir(mode=0o700)
    try:
        with locked_folder(temporary):
            yield temporary
            remove_tree(final)
            temporary.replace(final)
    except BaseException:
        remove_tree(temporary, ignore_errors=True)
        raise


def _write_and_check(
    source: Source, request: ExportRequest, dtype: WeightType, folder: Path, progress: Progress
) -> Fidelity:
    with temporary_folder(f"{SCRATCH_PREFIX}check-") as work:
        checker = Checker(source.run, work, progress)
        checker.check("run", None)
        candidates: list[Candidate] = []
        if request.kind == "adapter":
            write_common_files(source, folder)
            write_adapter(source, folder)
        elif request.kind == "merged":
            candidates, checked = _write_merged(source, dtype, folder, checker, progress)
            if checked is not None:
                return fidelity_of(source, request, dtype, folder, checked, candidates)
        else:
            merged = folder / ".merged"
            merged.mkdir()
            candidates, _ = _write_merged(source, UNQUANTIZED.get(dtype, dtype), merged, checker, progress)
            write_gguf(source, dtype, merged, folder, progress)
            remove_tree(merged)
        return fidelity_of(source, request, dtype, folder, checker.check(request.kind, folder), candidates)


def _write_merged(
    source: Source, dtype: WeightType, folder: Path, checker: Checker, progress: Progress
) -> tuple[list[Candidate], Checked | None]:
    """Write a merged model. A QLoRA adapter is merged into both of its possible bases; the better one is kept.

    Returns the two candidates and the check of the one that was kept; without candidates ([], None).
    """
    if not source.spec.quantizes_base:
        write_common_files(source, folder)
        write_merged(source, dtype, folder, "original", progress)
        return [], None
    checks: dict[Base, Checked] = {}
    bases: tuple[Base, ...] = ("original", "dequantized")
    for base in bases:
        place = folder / f".{base}"
        place.mkdir()
        write_common_files(source, place)
        write_merged(source, dtype, place, base, progress)
        checks[base] = checker.check("merged", place)
    metric, reference = metric_spec(source.result.metric), run_items(source.run)
    best = max(bases, key=lambda base: _rank(checks[base].items, source, metric.lower_is_better))
    for path in (folder / f".{best}").iterdir():
        path.replace(folder / path.name)
    for base in bases:
        remove_tree(folder / f".{base}")
    return [
        Candidate(
            base=base,
            score=scores_of(checks[base].items, source.result.metric),
            difference=difference_of(checks[base].items, reference, source.result.metric),
            kept=base == best,
        )
        for base in bases
    ], checks[best]


def _rank(items: Sequence[Item], source: Source, lower_is_better: bool) -> tuple[float, float]:
    """Score, then the lower loss; greater is better."""
    score, loss = scores_of(items, source.result.metric), loss_of(items)
    value = score.mean if score and score.mean is not None else 0.0
    return (-value if lower_is_better else value, -(loss.mean if loss and loss.mean is not None else 0.0))


def loss_of(items: Sequence[Item]) -> Any:
    """Held-out loss per answer token with its interval."""
    if not items:
        return None
    return bootstrap([item.nll / item.loss_weight for item in items], [item.loss_weight for item in items])


def fidelity_of(
    source: Source,
    request: ExportRequest,
    dtype: WeightType,
    folder: Path,
    checked: Checked,
    candidates: list[Candidate],
) -> Fidelity:
    """The record of a check."""
    metric, reference = source.result.metric, run_items(source.run)
    difference = difference_of(checked.items, reference, metric)
    outcome = outcome_of(difference, metric_spec(metric), request.margin, checked.findings)
    outputs = [item.output for item in reference or []]
    compared = metric_spec(metric).needs_answers and len(outputs) == len(checked.items) > 0
    same = [a == item.output for a, item in zip(outputs, checked.items, strict=True)] if compared else []
    return Fidelity(
        run=source.run.name,
        kind=request.kind,
        type=dtype,
        model=source.base.id,
        metric=metric,
        device=checked.device,
        margin=request.margin,
        outcome=outcome,
        findings=checked.findings,
        score=scores_of(checked.items, metric),
        run_score=source.result.after.score if source.result.after else None,
        difference=difference,
        loss=loss_of(checked.items),
        loss_difference=loss_difference(checked.items, reference),
        identical=sum(same) / len(same) if same else None,
        ended=checked.ended,
        largest_logit_difference=checked.largest_logit_difference,
        logits_compared=checked.logits_compared,
        bytes=folder_bytes(folder, "*.safetensors") + folder_bytes(folder, "*.gguf"),
        tensor_types=checked.tensor_types,
        seconds_per_token=checked.seconds / checked.tokens if checked.tokens else None,
        candidates=candidates,
        versions=checked.versions,
        created=time.time(),
    )
