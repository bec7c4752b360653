"""Artifacts as rungs: a row for each with its scores, costs and its difference from the runs it was exported from.

An artifact shares the seeds of its runs, so that it is not an independent rung:

- Its difference from its runs is taken by test item, as the mean over the seeds. It describes these artifacts, so that
  it varies by test item only. The intervals of these differences hold simultaneously for all artifacts of the ladder.
- Its differences from the base model and from full fine-tuning, and its share of full's gain, are those of the same
  rungs with this artifact in place of the trained model; their intervals hold simultaneously for the artifacts of one
  kind. An artifact of full fine-tuning itself is compared with it over the mean of the seeds, as in the first case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from engine.config.errors import UserError
from engine.config.metric_specs import LOSS, MetricSpec, metric_spec
from engine.ladder.results import (
    LadderResults,
    add_shares,
    make_comparison,
    reason_of,
    reference_rung,
    seed_range,
    status_of,
)
from engine.ladder.statistics import Difference, Floats, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, Ladder, LadderEntry, LadderPlan, artifact_of
from engine.runs.ladder.rung_results import Comparison, RungResult
from engine.runs.run.exports import Fidelity, ItemScore, read_fidelity, read_item_scores

ZERO = ""
"""Name of the rung of zeros with which differences are compared."""


@dataclass(frozen=True)
class ExportedArtifact:
    """An artifact's rung with what its exports recorded, in the order of the seeds."""

    name: str
    source: str
    word: str
    entries: list[LadderEntry]
    """Finished exports."""
    checks: list[Fidelity]
    scores: ItemScores | None
    """Scores of the metric; None for `loss` and without exports."""
    losses: ItemScores | None

    @property
    def compared(self) -> ItemScores | None:
        """What its score is the mean of."""
        return self.scores or self.losses


def add_artifacts(folder: LadderDir, ladder: Ladder, plan: LadderPlan, results: LadderResults) -> None:
    """Add a row for each artifact after that of its rung, and its comparisons.

    Raises UserError if an export is damaged.
    """
    spec = metric_spec(ladder.metric)
    artifacts = [_read(folder, ladder, name, spec, results) for name in plan.ship]
    rows = {artifact.name: _row(artifact, ladder) for artifact in artifacts}
    for artifact in reversed(artifacts):
        place = next(number for number, row in enumerate(ladder.rows) if row.name == artifact.source)
        ladder.rows.insert(place + 1, rows[artifact.name])
    scored = [artifact for artifact in artifacts if artifact.compared and artifact.compared.finite]
    trained = results.losses if spec.is_loss else results.scores
    ladder.comparisons += _against_runs(scored, trained, results.losses, spec, ladder.margin)
    reference = reference_rung(ladder, trained, spec)
    for word in dict.fromkeys(artifact.word for artifact in scored):
        _compare_kind(
            [artifact for artifact in scored if artifact.word == word], rows, ladder, trained, reference, spec
        )


def _read(folder: LadderDir, ladder: Ladder, name: str, spec: MetricSpec, results: LadderResults) -> ExportedArtifact:
    parts = artifact_of(name)
    assert parts is not None
    source, artifact = parts
    runs = {run.entry.seed: run for run in results.runs if run.entry.rung == source}
    entries = [
        entry
        for entry in ladder.entries
        if (entry.rung, entry.kind, entry.status) == (name, "export", "finished")
        and entry.seed in runs
        and entry.run.startswith(f"{runs[entry.seed].entry.run}/")
    ]
    folders = [folder.runs / entry.run for entry in entries]
    items = [_items(path, len(runs[entry.seed].lines)) for path, entry in zip(folders, entries, strict=True)]
    scores = losses = None
    if items:
        seeds = tuple(entry.seed for entry in entries)
        weights = np.array([item.tokens if item.weight is None else item.weight for item in items[0]], dtype=float)
        groups = [line.group for line in runs[entries[0].seed].lines]
        losses = item_scores(_values(items, lambda item: item.nll), weights, groups, seeds=seeds)
        if not spec.is_loss:
            scores = item_scores(_values(items, lambda item: item.scores[spec.name]), None, groups, seeds=seeds)
    checks = [read_fidelity(path) for path in folders]
    return ExportedArtifact(name, source, artifact.word, entries, checks, scores, losses)


def _items(folder: Path, expected: int) -> list[ItemScore]:
    """The scores by test item. Raises UserError if some are missing."""
    items = read_item_scores(folder)
    if len(items) != expected:
        hint = "delete this folder, then `ftbench resume` the ladder, which exports it again"
        problem = f"{len(items)} scores for {expected} test items"
        raise UserError(problem, str(folder), hint, code="ladder.unreadable_scores")
    return items


def _values(runs: Iterable[list[ItemScore]], value: Callable[[ItemScore], float]) -> Floats:
    return np.array([[value(item) for item in items] for items in runs], dtype=float)


def _row(artifact: ExportedArtifact, ladder: Ladder) -> RungResult:
    entries = [entry for entry in ladder.entries if entry.rung == artifact.name]
    source = next(row for row in ladder.rows if row.name == artifact.source)
    row = RungResult(name=artifact.name, method=source.method, source=source.name, status=status_of(entries))
    row.reason = reason_of(entries)
    checks = artifact.checks
    if not checks:
        return row
    row.seeds, row.runs = [entry.seed for entry in artifact.entries], [entry.run for entry in artifact.entries]
    row.parameters, row.artifact_bytes = source.parameters, checks[-1].bytes
    row.export_seconds = seed_range(entry.seconds for entry in artifact.entries)
    row.all_seconds = seed_range(
        of_run.seconds + entry.seconds
        for entry in artifact.entries
        for of_run in ladder.entries
        if (of_run.rung, of_run.kind, of_run.seed) == (source.name, "run", entry.seed)
        and of_run.seconds is not None
        and not of_run.disturbed
        and not of_run.other_device
        and entry.seconds is not None
    )
    known = [check.identical for check in checks if check.identical is not None]
    row.identical = fmean(known) if known else None
    row.generation = seed_range(1 / check.seconds_per_token for check in checks if check.seconds_per_token)
    row.generation_device = checks[-1].device
    return row


def _against_runs(
    artifacts: Sequence[ExportedArtifact],
    trained: Mapping[str, ItemScores],
    losses: Mapping[str, ItemScores],
    spec: MetricSpec,
    margin: float | None,
) -> list[Comparison]:
    """The difference of each artifact from its runs, artifact − run."""
    of_scores = _paired(
        {artifact.name: (artifact.compared, trained.get(artifact.source)) for artifact in artifacts}, spec.bounds
    )
    losses_of = {} if spec.is_loss else losses
    of_losses = _paired(
        {artifact.name: (artifact.losses, losses_of.get(artifact.source)) for artifact in artifacts}, LOSS.bounds
    )
    return [
        make_comparison(
            of_scores[artifact.name], _items_of(artifact), spec, margin, of_losses.get(artifact.name), artifact.source
        )
        for artifact in artifacts
        if artifact.name in of_scores
    ]


def _items_of(artifact: ExportedArtifact) -> int:
    """The number of test items that it was scored on."""
    return artifact.compared.items if artifact.compared else 0


def _paired(
    pairs: Mapping[str, tuple[ItemScores | None, ItemScores | None]], bounds: tuple[float, float]
) -> dict[str, Difference]:
    """For each name the difference a − b, the mean over the seeds that both have, as a difference from zero."""
    values: dict[str, ItemScores] = {}
    for name, (a, b) in pairs.items():
        if a is not None and b is not None and a.finite and b.finite:
            of_a, of_b = a.by_seed(), b.by_seed()
            mean = np.mean([of_a[seed] - of_b[seed] for seed in of_a if seed in of_b], 0)
            values[name] = ItemScores(mean[None], a.weights, untrained=True, items=a.items)
    if not values:
        return {}
    first = next(iter(values.values()))
    zeros = ItemScores(np.zeros_like(first.values), first.weights, untrained=True)
    half = (bounds[1] - bounds[0]) / 2
    samples = MeanSamples({**values, ZERO: zeros}, (-half, half))
    return {difference.a: difference for difference in samples.differences([(name, ZERO) for name in values])}


def _compare_kind(
    artifacts: Sequence[ExportedArtifact],
    rows: Mapping[str, RungResult],
    ladder: Ladder,
    trained: Mapping[str, ItemScores],
    reference: str,
    spec: MetricSpec,
) -> None:
    """Fill in the scores, shares and further comparisons of the artifacts of one kind."""
    scores = {artifact.name: artifact.compared for artifact in artifacts if artifact.compared is not None}
    others = {name: trained[name] for name in (BASE, reference) if name in trained}
    bounds = LOSS.bounds if spec.is_loss else spec.bounds
    samples = MeanSamples({**scores, **others}, bounds)
    losses = {
        artifact.name: artifact.losses
        for artifact in artifacts
        if artifact.losses is not None and artifact.losses.finite
    }
    by_loss = MeanSamples(losses, LOSS.bounds) if losses else None
    for artifact in artifacts:
        row = rows[artifact.name]
        row.score = samples.interval(artifact.name)
        row.by_seed = [float(mean) for mean in scores[artifact.name].seed_means]
        row.loss = by_loss.interval(artifact.name) if by_loss and artifact.name in losses else None
        is_full = artifact.source == reference
        averaged = _averaged(artifact.name, scores, others, reference, bounds) if is_full else samples
        add_shares(row, averaged, ladder, spec, reference)
    pairs = [(artifact.name, BASE) for artifact in artifacts if BASE in others]
    pairs += [
        (artifact.name, reference) for artifact in artifacts if reference in others and artifact.source != reference
    ]
    items = _items_of(artifacts[0])
    for difference in samples.differences(pairs) if pairs else []:
        ladder.comparisons.append(make_comparison(difference, items, spec, ladder.margin))


def _averaged(
    name: str,
    scores: Mapping[str, ItemScores],
    others: Mapping[str, ItemScores],
    reference: str,
    bounds: tuple[float, float],
) -> MeanSamples:
    """Samples of an artifact of full fine-tuning and of its runs as means over the seeds that both have."""
    seeds = scores[name].by_seed().keys() & others[reference].by_seed().keys()
    means = {
        rung: ItemScores(
            np.mean([scores_of_rung.by_seed()[seed] for seed in sorted(seeds)], 0)[None],
            scores_of_rung.weights,
            untrained=True,
            items=scores_of_rung.items,
        )
        for rung, scores_of_rung in ((name, scores[name]), (reference, others[reference]))
    }
    return MeanSamples({**others, **means}, bounds)
