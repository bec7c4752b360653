"""The base model with examples in the prompt as rows of a ladder: its scores, and the sentences of the verdict."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from engine.ladder.decisions import Decisions, comparison
from engine.ladder.phrases import (
    NO_SIGNIFICANT_DIFFERENCE,
    SIGNIFICANTLY,
    as_good_text,
    difference_text,
    ladder_metric,
    method_subject,
    score_text,
)
from engine.ladder.results import FinishedRun, LadderResults, add_scores, read_prediction_lines
from engine.ladder.rung_format import rung_title
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.rung_results import RungResult, VerdictSentence
from engine.runs.rungs import BASE, few_shot_base, shots_of


def collect_few_shot(folder: LadderDir, results: LadderResults, shots: list[int], metric: str) -> list[RungResult]:
    """Add the scores of the base model with examples to the results; returns their rows.

    Raises UserError if a file is damaged.
    """
    base = results.bases.get(BASE)
    rows = []
    for count in shots if base else []:
        assert base is not None
        file = RunDir(folder.runs / base.entry.run).few_shot_file(count)
        if not file.exists():  # an earlier run without these examples
            continue
        lines = read_prediction_lines(file, "base")
        name = few_shot_base(count)
        add_scores(results, name, [FinishedRun(base.entry, base.result, lines)], "base", metric)
        row = RungResult(name=name, method=name, status="finished", runs=[base.entry.run])
        row.parameters = base.result.parameters
        row.ended, row.format_errors = _share(lines, "ended"), _share(lines, "formatted")
        row.format_errors = None if row.format_errors is None else 1 - row.format_errors
        rows.append(row)
    return rows


def _share(lines: list[dict[str, Any]], flag: str) -> float | None:
    flags = [line["base"].get(flag) for line in lines]
    return None if None in flags else fmean(map(float, flags))


def few_shot_sentences(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """Each trained rung against the base model with the most examples: whether training gained more than a prompt."""
    rows = [row for row in ladder.rows if shots_of(row.name) and row.score]
    if not rows:
        return []
    most = max(rows, key=lambda row: shots_of(row.name))
    title, metric = rung_title(most.name), ladder_metric(ladder)
    scores = f"has a {metric.title} of" if metric.lower_is_better else "scores"
    text = f"The {title}, with {shots_of(most.name)} training rows in each prompt, {scores} {score_text(most, metric)}."
    sentences = [VerdictSentence("quality", text)]
    for row in decisions.trained:
        found = comparison(ladder, row.name, most.name)
        if found is None:
            continue
        value, name = difference_text(ladder, found), method_subject(row)
        if found.finding in SIGNIFICANTLY:
            said = f"{name} is {SIGNIFICANTLY[found.finding]} than the {title}: {value}."
        elif found.finding == "as_good":
            said = f"{as_good_text(ladder, name, f'the {title}')}: {value}."
        else:
            said = f"{NO_SIGNIFICANT_DIFFERENCE.capitalize()} between {name} and the {title}: {value}."
        sentences.append(VerdictSentence("quality", said))
    return sentences
