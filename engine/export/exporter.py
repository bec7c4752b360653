"""Export a run: write the artifact to a temporary folder, check it in a new process, then move it into place."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from transformers import AutoTokenizer, GenerationConfig

from engine.config.errors import RunFailed, UserError, system_hint
from engine.config.files import (
    SCRATCH_PREFIX,
    file_sha256,
    folder_bytes,
    is_no_space_error,
    remove_tree,
    temporary_folder,
    used_folder,
)
from engine.config.metric_specs import MetricSpec, metric_spec
from engine.config.model_files import read_model_config
from engine.evaluation.generate import end_tokens
from engine.export.artifact_check import ArtifactCheck, Checker
from engine.export.card import write_card
from engine.export.checkpoint import PROCESSOR_FILES, CheckpointFiles, CheckpointMap, base_checkpoint, checkpoint_folder
from engine.export.comparison import difference_of, gain_of, mean_with_interval
from engine.export.export_source import ADAPTER_FILES, ExportSource, export_source, refuse_small_export_disk
from engine.export.format_modules import format_module
from engine.export.merged import (
    DTYPES,
    AdapterWeights,
    DequantizedWeights,
    FullWeights,
    Merge,
    plain_model,
    write_weights,
)
from engine.export.request import ExportRequest, Progress, refuse_folder
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.model_source import config_of, locate
from engine.runs.run.export_formats import export_formats
from engine.runs.run.exports import (
    FIDELITY,
    ITEM_SCORES,
    ArtifactMeasurements,
    Fidelity,
    ItemScore,
    MergeBase,
    MergeCandidate,
    export_folder,
    fidelity_outcome,
    remove_unfinished,
    unfinished_folder,
)
from engine.runs.run.predictions import ScoredItem, recorded_groups, recorded_items
from engine.runs.run.run_dir import RunDir
from engine.training.guards import first_line


def export(request: ExportRequest, progress: Progress) -> tuple[Path, Fidelity]:
    """Export and check; returns the artifact's folder and its check.

    The run's directory is only added to. Raises UserError if the run cannot be exported like this or the folder cannot
    be written, and RunFailed if the disk is full or the check does not finish; nothing half-written remains.
    """
    request.run.check_files()
    try:
        with used_folder(request.run.path):
            return _export(request, progress)
    except Exception as error:  # of any library that reads its files
        if request.run.config_file.exists():
            raise
        what = "the run was removed while it was exported"
        raise RunFailed(f"{request.run.name}: {what}", "export.run_removed") from error


def _export(request: ExportRequest, progress: Progress) -> tuple[Path, Fidelity]:
    dtype, final = request.written_type, request.folder
    try:
        refuse_folder(final, request.overwrite)
        run = export_source(request)
        refuse_small_export_disk(final, run, request.kind, dtype)
        progress = _logged(request, progress)
        with _folder_in_progress(request.run, final, request.overwrite) as folder:
            fidelity = _write_and_check(run, request, dtype, folder, progress)
            write_card(folder, run, fidelity)
            (folder / FIDELITY).write_bytes(msgspec.json.format(msgspec.json.encode(fidelity), indent=1))
    except OSError as error:
        if is_no_space_error(error):
            text = f"cannot export {request.run.name}: no space left in {final.parent}; the run is unchanged"
            raise RunFailed(text, "export.disk_full") from error
        if error.strerror is None:  # of a library that could not read the base model or the tokenizer
            problem, hint = f"cannot export ({first_line(error)})", "check that its base model is complete"
            raise UserError(problem, request.run.name, hint, "export.cannot_read") from error
        hint = f"{system_hint(error) or 'check the path'}, or use another --out"
        raise UserError(
            f"cannot export: {error.strerror}", str(error.filename or final), hint, "export.cannot_write"
        ) from error
    return final, fidelity


def _logged(request: ExportRequest, progress: Progress) -> Progress:
    """Progress that is also written to a log in the run's folder of exports, one line per change of the work."""
    log = request.run.exports / f"{export_folder(request.run, request.kind, request.type).name}.log"
    log.parent.mkdir(mode=0o700, exist_ok=True)
    log.write_text(f"{_now()} exporting to {request.folder}\n", "utf-8")
    last = ""

    def write(text: str, *counts: Any) -> None:
        nonlocal last
        if text != last:
            last = text
            with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write(f"{_now()} {text}\n")
        progress(text, *counts)

    return write


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


@contextlib.contextmanager
def _folder_in_progress(run: RunDir, final: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder next to `final`, renamed to it at the end and deleted on any error.

    Raises UserError if something else has appeared at `final` by then. In a folder that the user chose, others can read
    the artifact.
    """
    is_chosen = not final.is_relative_to(run.path)
    final.parent.mkdir(mode=0o755 if is_chosen else 0o700, parents=True, exist_ok=True)
    remove_unfinished(run)
    with unfinished_folder(final) as temporary:
        yield temporary
        if is_chosen:  # a server may run as another user; weights are written with mode 0600
            for path in [temporary, *temporary.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
        refuse_folder(final, overwrite)
        if (final / FIDELITY).exists():
            remove_tree(final)
        temporary.rename(final)  # an error for a file, and for a folder that is not empty


def _write_and_check(
    run: ExportSource, request: ExportRequest, dtype: str, folder: Path, progress: Progress
) -> Fidelity:
    started = time.monotonic()
    with temporary_folder(f"{SCRATCH_PREFIX}check-") as work:
        checker = Checker(run.directory, work, progress)
        checker.check("run")
        candidates: list[MergeCandidate] = []
        checked: ArtifactCheck | None = None
        copied: list[str] = []
        if request.kind == "adapter":
            write_common_files(run, folder)
            write_adapter(run, folder)
            if run.spec.quantizes_base:  # on the 4-bit base of its training, and on the 16-bit base that servers load
                checked = checker.check("adapter", folder)
                on_original = checker.check("adapter", folder, quantize_base=False)
                both: dict[MergeBase, ArtifactCheck] = {"dequantized": checked, "original": on_original}
                candidates = _candidates(run, both, "dequantized")
        elif request.kind == "merged":
            candidates, checked, copied = _write_best_merge(run, dtype, folder, checker, progress)
        else:
            module, merged = format_module(request.kind), folder / ".merged"
            merged.mkdir()
            candidates, _, _ = _write_best_merge(run, module.merged_type(dtype), merged, checker, progress)
            module.write(run, dtype, merged, folder, progress)
            remove_tree(merged)
        checked = checked or checker.check(request.kind, folder, copied=copied)
        scores = [  # losses and scores, without prompts and answers
            ItemScore(item=number, nll=item.nll, tokens=item.tokens, weight=item.weight, scores=item.scores or {})
            for number, item in enumerate(checked.items)
        ]
        (folder / ITEM_SCORES).write_bytes(b"".join(msgspec.json.encode(score) + b"\n" for score in scores))
        fidelity = fidelity_of(run, request, dtype, folder, checked, candidates)
        # Number of copied tensors by module: `mtp`, `model.visual`, `model.layers.61`.
        modules = [re.match(r"(model\.layers\.\d+|model\.[^.]+|[^.]+)", name) for name in copied]
        fidelity.copied = dict(Counter(module[0] for module in modules if module))
        fidelity.write_seconds = time.monotonic() - started - checker.seconds
        return fidelity


def _write_best_merge(
    run: ExportSource, dtype: str, folder: Path, checker: Checker, progress: Progress
) -> tuple[list[MergeCandidate], ArtifactCheck | None, list[str]]:
    """Write a merged model. A QLoRA adapter is merged into both of its possible bases; the better one is kept.

    Returns the two candidates and the check of the one that was kept, without candidates ([], None); and the tensors
    that were copied because the trained model does not load them.
    """
    if not run.spec.quantizes_base:
        write_common_files(run, folder)
        return [], None, write_merged(run, dtype, folder, "original", progress)
    checks: dict[MergeBase, ArtifactCheck] = {}
    bases: tuple[MergeBase, ...] = ("original", "dequantized")
    for base in bases:
        place = folder / f".{base}"
        place.mkdir()
        write_common_files(run, place)
        copied = write_merged(run, dtype, place, base, progress)
        checks[base] = checker.check("merged", place, copied=copied)
    best = max(bases, key=lambda base: _rank(checks[base].items, metric_spec(run.result.metric)))
    for path in (folder / f".{best}").iterdir():
        path.replace(folder / path.name)
    for base in bases:
        remove_tree(folder / f".{base}")
    return _candidates(run, checks, best), checks[best], copied


def _candidates(run: ExportSource, checks: dict[MergeBase, ArtifactCheck], kept: MergeBase) -> list[MergeCandidate]:
    """The scores of each base, and their difference from the run's."""
    metric, predictions = run.result.metric, run.directory.predictions_file
    reference, groups = recorded_items(predictions, "tuned"), recorded_groups(predictions)
    return [
        MergeCandidate(
            base=base,
            score=mean_with_interval(checked.items, metric, groups),
            difference=difference_of(checked.items, reference, metric, groups),
            kept=base == kept,
        )
        for base, checked in checks.items()
    ]


def _rank(items: Sequence[ScoredItem], metric: MetricSpec) -> tuple[float, float]:
    """Score, then the lower loss; greater is better."""
    score, loss = mean_with_interval(items, metric.name), mean_with_interval(items, "loss")
    value = (score.mean if score else None) or 0.0
    return -value if metric.lower_is_better else value, -((loss.mean if loss else None) or 0.0)


def fidelity_of(
    run: ExportSource,
    request: ExportRequest,
    dtype: str,
    folder: Path,
    checked: ArtifactCheck,
    candidates: list[MergeCandidate],
) -> Fidelity:
    metric, reference = run.result.metric, recorded_items(run.directory.predictions_file, "tuned")
    groups = recorded_groups(run.directory.predictions_file)
    difference = difference_of(checked.items, reference, metric, groups)
    base = recorded_items(run.directory.predictions_file, "base")
    identical = None  # share of answers that are the same text
    if metric_spec(metric).needs_answers and checked.items and reference and len(reference) == len(checked.items):
        pairs = zip(checked.items, reference, strict=True)
        identical = sum(item.output == other.output for item, other in pairs) / len(reference)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    outcome = fidelity_outcome(difference, metric_spec(metric), request.margin, checked.defects)
    return Fidelity(
        **{name: getattr(checked, name) for name in ArtifactMeasurements.__struct_fields__},
        run=run.directory.name,
        kind=request.kind,
        type=dtype,
        model=run.base.id,
        metric=metric,
        margin=request.margin,
        outcome=outcome,
        score=mean_with_interval(checked.items, metric, groups),
        run_score=run.result.after.score if run.result.after else None,
        difference=difference,
        base_score=run.result.before.score if run.result.before else None,
        gain=gain_of(checked.items, base, metric, groups),
        loss=mean_with_interval(checked.items, "loss", groups),
        loss_difference=difference_of(checked.items, reference, "loss", groups),
        identical=identical,
        bytes=folder_bytes(folder, export_formats()[request.kind].weights),
        seconds_per_token=checked.seconds / checked.tokens if checked.tokens else None,
        candidates=candidates,
        system_prompt=len(run.system_prompt),
        files={path.relative_to(folder).as_posix(): file_sha256(path) for path in files},
        created=time.time(),
    )


def write_common_files(run: ExportSource, folder: Path) -> None:
    """Tokenizer with chat template, and generation settings with every token that ends an answer."""
    AutoTokenizer.from_pretrained(str(run.directory.model), trust_remote_code=False).save_pretrained(folder)
    located = locate(run.base)
    try:
        settings = GenerationConfig.from_pretrained(located.source, revision=located.revision)
    except OSError:  # the base has none
        settings = GenerationConfig()
    ends = set(end_tokens(run.tokenizer, None, run.scored.rows.train))
    own = settings.eos_token_id
    ends |= set(own if isinstance(own, list) else [] if own is None else [own])
    settings.eos_token_id = sorted(ends) if len(ends) > 1 else next(iter(ends))
    if settings.pad_token_id is None:
        settings.pad_token_id = run.tokenizer.pad_token_id
    settings.save_pretrained(folder)


def write_adapter(run: ExportSource, folder: Path) -> None:
    """The adapter as PEFT stores it, naming its base by id and revision, or by the absolute path of a local folder."""
    for name in ADAPTER_FILES:
        shutil.copyfile(run.directory.model / name, folder / name)
    path = folder / ADAPTER_FILES[1]
    config = json.loads(path.read_text("utf-8"))
    located = locate(run.base)
    config["base_model_name_or_path"], config["revision"] = located.source, located.revision
    path.write_text(json.dumps(config, indent=2), "utf-8")


def write_merged(run: ExportSource, dtype: str, folder: Path, base: MergeBase, progress: Progress) -> list[str]:
    """The merged weights, and the configuration and processor files of the base.

    Returns the tensors that were copied because the class of the trained model does not load them.
    """
    plain = plain_model(config_of(run.base))
    checkpoint = base_checkpoint(run.base, plain)
    if run.spec.trains_weights:
        trained: FullWeights | AdapterWeights = FullWeights(CheckpointMap(plain, CheckpointFiles(run.directory.model)))
    elif base == "dequantized":
        progress("dequantizing the base")
        quantized = method(run.spec.name).load(run.frozen.config, this_machine())
        trained = AdapterWeights(plain, run.directory.model, DequantizedWeights(quantized))
    else:
        trained = AdapterWeights(plain, run.directory.model)
    write_weights(Merge(checkpoint, trained, DTYPES[dtype]), folder, progress)
    write_model_config(checkpoint_folder(locate(run.base)), plain, DTYPES[dtype], folder)
    return checkpoint.unused


def write_model_config(base: Path, plain: Any, dtype: torch.dtype, folder: Path) -> None:
    """The base's config.json with the type of the written weights, and its processor files.

    It is not written by transformers, which would leave out keys that it does not know, but other libraries may.
    """
    config = read_model_config(base)
    config.pop("quantization_config", None)  # the weights are written dequantized
    config.setdefault("architectures", [type(plain).__name__])
    config.setdefault("dtype", "")
    for part in [config, *(value for value in config.values() if isinstance(value, dict))]:
        for key in {"dtype", "torch_dtype"} & part.keys():  # `torch_dtype` before transformers 4.56
            part[key] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    for name in PROCESSOR_FILES:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
