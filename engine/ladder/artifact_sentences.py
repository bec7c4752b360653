"""The verdict on artifacts: what each keeps of full fine-tuning's gain and of its runs' score, and which to serve."""

from __future__ import annotations

from engine.config import quantities
from engine.config.method_specs import RULE_REFERENCE
from engine.ladder import rung_format as fmt
from engine.ladder.decisions import Decisions, comparison, is_non_inferior
from engine.ladder.phrases import (
    NO_SIGNIFICANT_DIFFERENCE,
    SIGNIFICANTLY,
    as_good_text,
    difference_text,
    keeps_gain,
    ladder_metric,
    score_text,
    unit_suffix,
)
from engine.runs import score_format
from engine.runs.ladder import Ladder
from engine.runs.rung_results import Comparison, RungResult, VerdictSentence
from engine.runs.rungs import artifact_of

COMPLETE_MODELS = ("merged", "gguf")
"""Kinds of artifacts that are served without the base model."""


def artifact_sentences(ladder: Ladder, decisions: Decisions) -> list[VerdictSentence]:
    """One sentence per scored artifact; then the smallest complete model of the method that the ladder recommends."""
    rows = [row for row in ladder.rows if row.source and row.score is not None]
    sentences = [VerdictSentence("artifact", _kept(ladder, row)) for row in rows]
    if decisions.ship is not None:
        own = [row for row in rows if row.source == decisions.ship.name and _is_complete(row)]
        if own:
            sentences.append(VerdictSentence("artifact", _smallest(ladder, decisions.ship, own)))
    return sentences


def _kept(ladder: Ladder, row: RungResult) -> str:
    """`LoRA Q4_K_M keeps 88.1% of full's gain over the base model, pointwise 95% CI [81.2, 94.0], in 105 MiB; …`."""
    metric, name = ladder_metric(ladder), fmt.rung_title(row.name)
    name = name[:1].upper() + name[1:] if row.source == RULE_REFERENCE else name
    size = f"in {quantities.size(row.artifact_bytes)}"
    if gain := row.share_of_gain:
        text = f"{name} {keeps_gain(ladder, row, gain)}, {size}"
    elif metric.lower_is_better:
        text = f"{name} has a {metric.title} of {score_text(row, metric)} {size}"
    else:
        text = f"{name} scores {score_text(row, metric)} {size}"
    of_run = comparison(ladder, row.name, row.source)
    if of_run is None:
        return f"{text}."
    if of_run.difference.mean == 0 and row.identical == 1:
        return f"{text}; all its answers are those of {fmt.rung_title(row.source)}."
    value = difference_text(ladder, of_run)
    if of_run.finding == "as_good":
        return f"{text}; {as_good_text(ladder, 'it', fmt.rung_title(row.source))}: {value}."
    if of_run.finding == "undecided":
        return f"{text}; {NO_SIGNIFICANT_DIFFERENCE} from {fmt.rung_title(row.source)}: {value}."
    return f"{text}; it is {SIGNIFICANTLY[of_run.finding]} than {fmt.rung_title(row.source)}: {value}."


def _is_complete(row: RungResult) -> bool:
    found = artifact_of(row.name)
    return found is not None and found[1].kind in COMPLETE_MODELS


def _smallest(ladder: Ladder, shipped: RungResult, artifacts: list[RungResult]) -> str:
    """Which artifact of the recommended method to serve as a complete model."""
    source = fmt.rung_title(shipped.name)
    near = [row for row in artifacts if is_non_inferior(ladder, row.name, shipped.name)]
    if not near and not all(_is_worse(comparison(ladder, row.name, shipped.name)) for row in artifacts):
        as_good = as_good_text(ladder, "", source).removeprefix(" is ")
        return f"No complete model made from {source} is shown to be {as_good}."
    if not near:
        return f"Every complete model made from {source} is {SIGNIFICANTLY['worse']} than {source}."
    small = min(near, key=lambda row: row.artifact_bytes)
    text = f"To serve {source} as a complete model, use {fmt.rung_title(small.name)}"
    text += f" ({quantities.size(small.artifact_bytes)}): the smallest that {as_good_text(ladder, '', source).lstrip()}"
    metric, of_run = ladder_metric(ladder), comparison(ladder, small.name, shipped.name)
    worst = None
    if of_run is not None:
        worst = of_run.difference.high if metric.lower_is_better else of_run.difference.low
    if worst is None:
        return f"{text}."
    points = score_format.difference(abs(worst), metric.name).lstrip("+") + unit_suffix(metric)
    return f"{text}. It may be up to {points} worse (bound of the 95% CI)."


def _is_worse(compared: Comparison | None) -> bool:
    return compared is not None and compared.finding == "worse"
