"""Artifacts as rungs: exported, checked and scored in a process of their own, and a row for each with its comparisons.

An artifact shares the seeds of its runs, so that it is not an independent rung:

- Its difference from its runs is taken by test item, as the mean over the seeds. It describes these artifacts, so that
  it varies by test item only. The intervals of these differences hold simultaneously for all artifacts of the ladder.
- Its differences from the base model and from full fine-tuning, and its share of full's gain, are those of the same
  rungs with this artifact in place of the trained model; their intervals hold simultaneously for the artifacts of one
  kind. An artifact of full fine-tuning itself is compared with it over the mean of the seeds, as in the first case.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.files import read_item_lines
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
from engine.ladder.statistics import Difference, ItemScores, MeanSamples, item_scores
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE, Ladder, LadderPlan, artifact_of
from engine.runs.ladder.rung_results import RungResult
from engine.runs.rpc_client import Cancelled, CancelToken, ask
from engine.runs.run.exports import (
    Artifact,
    Fidelity,
    export_arguments,
    read_fidelity,
    read_item_scores,
    remove_unfinished,
)
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested

STOP_POLL_SECONDS = 0.2


def scored_export(run: RunDir, artifact: Artifact) -> Fidelity | None:
    """The check of an artifact of the run that exists with a score for each of its test items, else None."""
    folder = run.exports / artifact.folder
    try:
        fidelity, scored = read_fidelity(folder), len(read_item_scores(folder))
        items = len(read_item_lines(run.predictions_file))
    except (UserError, OSError):
        return None
    return fidelity if fidelity.run == run.name and scored == items > 0 else None


def export_artifact(
    run: RunDir, artifact: Artifact, margin: float, stopping: StopRequest, show_progress: Callable[[str], None]
) -> Fidelity:
    """Export, check and score in a new process, which a stop request ends.

    Raises StopRequested, and UserError and RunFailed as that process.
    """
    token, ended = CancelToken(), threading.Event()

    def progress(text: str, done: int | None = None, total: int | None = None) -> None:
        show_progress(text if done is None or total is None else f"{text} {done}/{total}")

    def cancel_when_stopped() -> None:
        while not ended.wait(STOP_POLL_SECONDS):
            if stopping.requested:
                token.cancel()
                return

    watcher = threading.Thread(target=cancel_when_stopped, daemon=True, name="watch for a stop request")
    watcher.start()
    question = export_arguments(run, artifact.kind, artifact.requested_type, margin=margin, overwrite=True)
    try:
        answer = ask("export", question, progress, token, counted=progress)
    except Cancelled as error:
        remove_unfinished(run)
        raise StopRequested from error
    finally:
        ended.set()
        watcher.join()
    return msgspec.convert(answer["fidelity"], Fidelity)


ZERO = ""
"""Name of the rung of zeros with which differences are compared."""


@dataclass(frozen=True)
class ExportedArtifact:
    """An artifact's row and what its exports scored, in the order of the seeds."""

    row: RungResult
    word: str
    """Its kind, `merged`."""
    scores: ItemScores | None
    """Scores of the test items by the ladder's metric, losses if that is `loss`; None without exports."""
    losses: ItemScores | None


def add_artifacts(folder: LadderDir, ladder: Ladder, plan: LadderPlan, results: LadderResults) -> None:
    """Add a row for each artifact after that of its rung, and its comparisons.

    Raises UserError if an export is damaged.
    """
    spec = metric_spec(ladder.metric)
    artifacts = [_read(folder, ladder, name, spec, results) for name in plan.ship]
    for artifact in reversed(artifacts):
        place = next(number for number, row in enumerate(ladder.rows) if row.name == artifact.row.source)
        ladder.rows.insert(place + 1, artifact.row)
    scored = [artifact for artifact in artifacts if artifact.scores and artifact.scores.finite]
    trained = results.losses if spec.is_loss else results.scores

    of_scores = _against_runs(
        {artifact.row.name: (artifact.scores, trained.get(artifact.row.source)) for artifact in scored}, spec.bounds
    )
    pairs = {artifact.row.name: (artifact.losses, results.losses.get(artifact.row.source)) for artifact in scored}
    of_losses = {} if spec.is_loss else _against_runs(pairs, LOSS.bounds)
    for artifact in scored:
        if artifact.scores and (difference := of_scores.get(artifact.row.name)):
            items, of_loss = artifact.scores.items, of_losses.get(artifact.row.name)
            ladder.comparisons.append(
                make_comparison(difference, items, spec, ladder.margin, of_loss, artifact.row.source)
            )
    for word in dict.fromkeys(artifact.word for artifact in scored):
        _compare_kind([artifact for artifact in scored if artifact.word == word], ladder, trained, spec)


def _read(folder: LadderDir, ladder: Ladder, name: str, spec: MetricSpec, results: LadderResults) -> ExportedArtifact:
    """Raises UserError if the scores of some test items are missing."""
    parts = artifact_of(name)
    assert parts is not None
    source = next(row for row in ladder.rows if row.name == parts[0])
    runs = {run.entry.seed: run for run in results.runs if run.entry.rung == source.name}
    every = [entry for entry in ladder.entries if entry.rung == name]
    entries = [
        entry
        for entry in every
        if (entry.kind, entry.status) == ("export", "finished")
        and entry.seed in runs
        and entry.run.startswith(f"{runs[entry.seed].entry.run}/")
    ]
    row = RungResult(name=name, method=source.method, source=source.name, status=status_of(every))
    row.reason = reason_of(every)
    if not entries:
        return ExportedArtifact(row, parts[1].word, None, None)

    folders = [folder.runs / entry.run for entry in entries]
    items = [read_item_scores(path) for path in folders]
    for path, entry, own in zip(folders, entries, items, strict=True):
        if len(own) != len(runs[entry.seed].lines):
            hint = "delete this folder, then `ftbench resume` the ladder, which exports it again"
            problem = f"{len(own)} scores for {len(runs[entry.seed].lines)} test items"
            raise UserError(problem, str(path), hint, code="ladder.unreadable_scores")
    row.seeds, row.runs = [entry.seed for entry in entries], [entry.run for entry in entries]
    weights = np.array([item.tokens if item.weight is None else item.weight for item in items[0]], dtype=float)
    groups, seeds = [line.group for line in runs[row.seeds[0]].lines], tuple(row.seeds)
    values = np.array([[item.nll for item in own] for own in items], dtype=float)
    scores = losses = item_scores(values, weights, groups, seeds=seeds)
    if not spec.is_loss:
        values = np.array([[item.scores[spec.name] for item in own] for own in items], dtype=float)
        scores = item_scores(values, None, groups, seeds=seeds)

    checks = [read_fidelity(path) for path in folders]
    row.parameters, row.artifact_bytes = source.parameters, checks[-1].bytes
    row.export_seconds = seed_range(entry.seconds for entry in entries)
    row.all_seconds = seed_range(
        of_run.seconds + entry.seconds
        for entry in entries
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
    return ExportedArtifact(row, parts[1].word, scores, losses)


def _against_runs(
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
    artifacts: Sequence[ExportedArtifact], ladder: Ladder, trained: Mapping[str, ItemScores], spec: MetricSpec
) -> None:
    """Fill in the scores, shares and further comparisons of the artifacts of one kind."""
    reference = reference_rung(ladder, trained, spec)
    scores = {artifact.row.name: artifact.scores for artifact in artifacts if artifact.scores is not None}
    others = {name: trained[name] for name in (BASE, reference) if name in trained}
    bounds = LOSS.bounds if spec.is_loss else spec.bounds
    samples = MeanSamples({**scores, **others}, bounds)
    losses = {
        artifact.row.name: artifact.losses
        for artifact in artifacts
        if artifact.losses is not None and artifact.losses.finite
    }
    by_loss = MeanSamples(losses, LOSS.bounds) if losses else None
    for row in (artifact.row for artifact in artifacts):
        row.score = samples.interval(row.name)
        row.by_seed = [float(mean) for mean in scores[row.name].seed_means]
        row.loss = by_loss.interval(row.name) if by_loss and row.name in losses else None
        of_share = samples
        if row.source == reference:  # compare the means over the seeds that both have
            pair = {row.name: scores[row.name], reference: others[reference]}
            seeds = sorted(pair[row.name].by_seed().keys() & pair[reference].by_seed().keys())
            means = {
                name: ItemScores(
                    np.mean([own.by_seed()[seed] for seed in seeds], 0)[None],
                    own.weights,
                    untrained=True,
                    items=own.items,
                )
                for name, own in pair.items()
            }
            of_share = MeanSamples({**others, **means}, bounds)
        add_shares(row, of_share, ladder, reference)
    pairs = [(name, BASE) for name in scores if BASE in others]
    pairs += [
        (artifact.row.name, reference)
        for artifact in artifacts
        if reference in others and artifact.row.source != reference
    ]
    items = next(iter(scores.values())).items
    for difference in samples.differences(pairs) if pairs else []:
        ladder.comparisons.append(make_comparison(difference, items, spec, ladder.margin))
