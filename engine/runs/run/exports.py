"""Exported artifacts of a run: `exports/NAME/` in its directory, with `fidelity.json`, the check against the run."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.errors import Notice, UserError
from engine.config.files import locked_folder, read_item_lines, read_regular, remove_tree, subfolders
from engine.config.metric_specs import DEFAULT_MARGIN, MetricSpec
from engine.runs.queue import locks
from engine.runs.run.export_formats import ExportFormat, export_formats
from engine.runs.run.folder import real_path
from engine.runs.run.result import Interval
from engine.runs.run.run_dir import RunDir

FidelityOutcome = Literal["pass", "worse", "undecided"]
MergeBase = Literal["original", "dequantized"]
FIDELITY = "fidelity.json"
ITEM_SCORES = "scores.jsonl"


class Artifact(Struct, frozen=True, kw_only=True):
    """A kind of artifact with the type of its weights, as the `--ship` of a ladder names it."""

    kind: str
    type: str

    @property
    def format(self) -> ExportFormat:
        return export_formats()[self.kind]

    @property
    def folder(self) -> str:
        """Its folder below `exports/`: `merged-bf16`."""
        return f"{self.kind}-{self.type}" if self.format.types else self.kind

    @property
    def word(self) -> str:
        """Its shortest name on the command line: `merged`, `merged-f16`."""
        if self.type in self.format.own_types:
            return self.type
        return self.kind if self.type == self.format.default else self.folder

    @property
    def requested_type(self) -> str | None:
        """The type to request; None for adapters, which are stored as they were trained."""
        return self.type if self.format.types else None

    @property
    def title(self) -> str:
        """Its name in sentences, after that of its rung: `merged`, `merged f16`, `Q4_K_M`."""
        if self.type in self.format.own_types:
            return self.type.upper()
        name = self.format.noun if self.format.module else self.kind
        return name if self.word == self.kind else f"{name} {self.type}"


def artifacts() -> list[Artifact]:
    """Every kind with every type of its weights."""
    return [
        Artifact(kind=kind, type=weights)
        for kind, known in export_formats().items()
        for weights in known.types or (known.default,)
    ]


def artifact_words() -> list[str]:
    return [artifact.word for artifact in artifacts()]


def parse_artifact(text: str) -> Artifact:
    """An artifact by its shortest name, the name of its folder, or its kind. Raises ValueError for another text."""
    for artifact in artifacts():
        is_default = text == artifact.kind and artifact.type == artifact.format.default
        if is_default or text in (artifact.word, artifact.folder):
            return artifact
    raise ValueError(text)


class ItemScore(Struct, kw_only=True):
    """A line of `scores.jsonl`: what an artifact scored on one test item. It has no text, so that it can be shared."""

    item: int
    nll: float
    """Weighted sum of the negative log-likelihood of a reference in nats; mean over the item's references."""
    tokens: float
    """Tokens of a reference; mean over the item's references."""
    weight: float | None = None
    """Sum of the tokens' loss weights; None if each is 1."""
    scores: dict[str, float] = field(default_factory=dict)


class MergeCandidate(Struct, kw_only=True):
    """A QLoRA adapter with one of its two possible bases: merged into it, or applied to it."""

    base: MergeBase
    """The 16-bit weights of the base model, or the 4-bit weights of the training (dequantized when merged)."""
    score: Interval | None
    difference: Interval | None
    """Artifact minus run, paired by test item."""
    kept: bool
    """Whether the artifact's own figures are those of this base."""


class ArtifactMeasurements(Struct, kw_only=True):
    """What the process measures that loads an artifact from disk, apart from losses and scores."""

    device: str = ""
    defects: list[Notice] = field(default_factory=list)
    """What makes the artifact wrong, even with an equal score."""
    warnings: list[Notice] = field(default_factory=list)
    """What the check did otherwise than asked, such as answering in smaller batches."""
    ended: float | None = None
    """Share of generated answers that ended with an end token."""
    largest_logit_difference: float | None = None
    """Between artifact and run over the answer tokens of the first test items."""
    logits_compared: int = 0
    """Answer tokens of that comparison."""
    experts_changed: float | None = None
    """Share of the choices of a mixture of experts, by token and router, that differ from the run's; None without."""
    logit_difference_with_same_experts: float | None = None
    """The largest over answer tokens that all routers pass on to the run's experts; None if there are none."""
    logits_with_same_experts: int = 0
    """Answer tokens of that comparison."""
    tensor_types: dict[str, int] = field(default_factory=dict)
    """Number of tensors of each type, where a format stores several: not every width can be quantized alike."""
    vllm_names: bool | None = None
    """Whether vLLM's mapping of the family, as read in its source, has all names of the weights; None for families that
    are not listed.
    """
    versions: dict[str, str] = field(default_factory=dict)


class Fidelity(ArtifactMeasurements, kw_only=True):
    """Content of `fidelity.json`: an artifact, loaded from disk in a new process, compared with its run."""

    v: int = 1
    run: str
    kind: str
    type: str
    """Data type of the stored weights."""
    model: str
    """The base model, as the run's configuration names it."""
    metric: str
    margin: float
    outcome: FidelityOutcome
    score: Interval | None = None
    """Of the artifact; None without test items."""
    run_score: Interval | None = None
    difference: Interval | None = None
    """Artifact minus run, paired by test item; None if the run has no scores of test items."""
    base_score: Interval | None = None
    """Of the base model, or of the run that this run started from; None if it was not scored."""
    gain: Interval | None = None
    """Of the artifact over it, paired by test item; positive is better."""
    loss: Interval | None = None
    """Held-out loss of the artifact in nats per answer token; None where logits are not available."""
    loss_difference: Interval | None = None
    identical: float | None = None
    """Share of test items with the same answer as the run's; None if the metric needs no answers."""
    bytes: int = 0
    """Size of the weights."""
    copied: dict[str, int] = field(default_factory=dict)
    """Number of tensors by module that were copied from the base, because the class of the trained model does not load
    them: heads for multi-token prediction, towers.
    """
    seconds_per_token: float | None = None
    """Generation time per answer token, in batches of the run's evaluation batch size."""
    candidates: list[MergeCandidate] = field(default_factory=list)
    write_seconds: float | None = None
    """Duration of writing the artifact, without the checks."""
    system_prompt: int = 0
    """Characters of the system prompt that all training rows have; 0 if they have none or different ones."""
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file that was checked, by its path in the artifact."""
    created: float = 0.0


def fidelity_outcome(
    difference: Interval | None, metric: MetricSpec, margin: float, defects: list[Notice]
) -> FidelityOutcome:
    """`worse` with defects, or if the interval of the loss of quality is beyond the margin; `pass` if it is within.

    The loss of quality is run minus artifact, or artifact minus run where lower is better. The check is `undecided`
    without an interval, or if the interval contains the margin.
    """
    if defects:
        return "worse"
    if difference is None or difference.low is None or difference.high is None:
        return "undecided"
    most, least = (difference.high, difference.low) if metric.lower_is_better else (-difference.low, -difference.high)
    return "pass" if most <= margin else "worse" if least > margin else "undecided"


def export_arguments(
    run: RunDir,
    kind: str,
    dtype: str | None = None,
    *,
    out: str | None = None,
    margin: float = DEFAULT_MARGIN,
    overwrite: bool = False,
    wait: bool = True,
) -> dict[str, Any]:
    """Arguments of the request `export`. dtype: None for the kind's default; wait: in the device queue."""
    return {
        "run": str(run.path),
        "kind": kind,
        "type": dtype,
        "out": out,
        "margin": margin,
        "overwrite": overwrite,
        "wait": wait,
    }


def export_folder(run: RunDir, kind: str, dtype: str | None) -> Path:
    """Where an artifact is written unless another folder is given; `dtype` None is the kind's default."""
    return run.exports / Artifact(kind=kind, type=dtype or export_formats()[kind].default).folder


def remove_unfinished(run: RunDir) -> None:
    """Delete what killed exports left in the run's folder; a folder that an export is writing is locked and stays."""
    with locks.exclusive(run.exports):
        for folder in run.exports.glob(".*.tmp"):
            if not locks.is_locked(folder):
                remove_tree(folder, ignore_errors=True)


@contextlib.contextmanager
def unfinished_folder(final: Path) -> Iterator[Path]:
    """A locked temporary folder next to `final`, removed on any error. What a killed export left of it is removed.

    Raises UserError while another export to `final` is running. `ftbench` is in its name, because the folder around it
    can be the user's.
    """
    temporary = _temporary_folder(final)
    with contextlib.ExitStack() as stack:
        with locks.exclusive(final.parent):  # until it is locked, it looks like that of a killed export
            if locks.is_locked(temporary):
                hint = "wait until it has ended, or use another --out"
                raise UserError("another export writes to it", str(final), hint, "export.in_progress")
            if is_own_folder(temporary):
                remove_tree(temporary)
            temporary.mkdir(mode=0o700)
            stack.enter_context(locked_folder(temporary))
        try:
            yield temporary
        except BaseException:
            remove_tree(temporary, ignore_errors=True)
            raise


def remove_unfinished_to(final: Path) -> None:
    """Delete what a killed export to `final` left; a folder that another export is writing is locked and stays."""
    temporary = _temporary_folder(real_path(final))
    with locks.exclusive(temporary.parent):
        if is_own_folder(temporary) and not locks.is_locked(temporary):
            remove_tree(temporary, ignore_errors=True)


def _temporary_folder(final: Path) -> Path:
    return final.with_name(f".{final.name}.ftbench.tmp")


def is_own_folder(path: Path) -> bool:
    """Whether it is a directory of this user, not a link."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
    return False


def exports(run: RunDir) -> Iterator[tuple[Path, Fidelity]]:
    """Folder and check of each exported artifact, by name. Folders without a readable check are left out."""
    folders: list[Path] = []
    with contextlib.suppress(OSError):
        folders = subfolders(run.exports)
    for folder in folders:
        with contextlib.suppress(UserError):
            yield folder, read_fidelity(folder)


def read_fidelity(folder: Path) -> Fidelity:
    """The check of an artifact. Raises UserError if it is missing or damaged."""
    path = folder / FIDELITY
    try:
        return msgspec.json.decode(read_regular(path), type=Fidelity)
    except (OSError, ValueError, RecursionError) as error:
        hint = "export the run again"
        raise UserError(f"no readable check of an artifact: {error}", str(path), hint, "export.no_fidelity") from error


def read_item_scores(folder: Path) -> list[ItemScore]:
    """The scores of an artifact by test item. Raises UserError if the file is damaged."""
    path = folder / ITEM_SCORES
    try:
        return [msgspec.json.decode(line, type=ItemScore) for line in read_item_lines(path)]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, RecursionError) as error:
        problem, hint = f"cannot read the scores of an artifact: {error}", "export the run again"
        raise UserError(problem, str(path), hint, "export.no_scores") from error
