"""Headings, captions and explanations of the report, for the HTML page and Markdown."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from engine.config.metric_specs import metric_spec
from engine.config.text import amount, visible
from engine.ladder.phrases import margin_text, metric_title, rung_title
from engine.runs.ladder import Ladder
from engine.runs.rung_results import VerdictSentence

TOPICS = {
    "quality": "Quality",
    "forgetting": "Forgetting",
    "time": "Time",
    "energy": "Energy",
    "memory": "Memory",
    "rent": "GPU rental",
    "prototype": "Prototype",
    "ship": "Ship",
    "full": "Full fine-tuning",
    "artifact": "Artifacts",
    "data": "Data",
    "caveat": "Caveat",
}
NO_VERDICT = "No rung has finished yet."
NO_RESULTS = "No results yet."
NO_SAMPLES = "No run has predictions to show."
NO_TRIALS = "Learning-rate trials: none; each rung was trained at one rate."
PARTIAL_REPORT = "Partial report: the ladder is still running"
COMPARISONS = (
    "All rungs are scored on the same test items, so differences are paired by item. Their 95% CIs hold simultaneously "
    "for all pairs of trained rungs and the base model; the adjusted p is below 0.05 exactly where the CI excludes "
    "zero. A rung is as good as another within the margin if the CI excludes that it is worse by more. The test items "
    "and seeds that give 80% power do so if the true difference is the observed one and seeds vary as they did here; "
    "the range is for seeds that vary little and much."
)
BENCHMARKS = (
    "Benchmarks are scored by lm-evaluation-harness, with the prompts of its tasks and without a chat template. "
    "Differences from the base model are paired by item; their 95% CIs hold simultaneously for all rungs and "
    "benchmarks. A rung forgets if it is significantly worse than the base model."
)
ARTIFACTS = (
    "Artifacts are exported from the runs, loaded from disk in a new process and scored on the same test items. Their "
    "differences from their runs are paired by item, as means over the seeds; their 95% CIs are about these artifacts "
    "and hold simultaneously for all of them. Differences from the base model and from full fine-tuning hold "
    "simultaneously for the artifacts of one kind."
)


def verdict(ladder: Ladder) -> list[tuple[str, str]]:
    """(topic, text): consecutive sentences with the same topic are one paragraph."""
    paragraphs = [list(group) for _, group in itertools.groupby(ladder.verdict, key=lambda sentence: sentence.topic)]
    return [(_topic(group), " ".join(sentence.text for sentence in group)) for group in paragraphs]


def _topic(sentences: list[VerdictSentence]) -> str:
    topic = sentences[0].topic
    name = TOPICS.get(topic, topic.capitalize())
    return f"{name}s" if topic == "caveat" and len(sentences) > 1 else name


def title(ladder: Ladder) -> str:
    return f"{ladder.work.model} on {ladder.work.data}" if ladder.work else ladder.preset


def facts(ladder: Ladder) -> list[str]:
    """The line below the title: rungs, test items, seeds, margin, device, date."""
    names = [rung_title(row.name) for row in ladder.rows if not row.source]
    names = names or list(dict.fromkeys(rung_title(entry.rung) for entry in ladder.entries))
    texts = [", ".join(names)] if names else []
    if exported := sum(bool(row.source) for row in ladder.rows):
        texts.append(amount(exported, "artifact"))
    if ladder.work:
        texts.append(f"{amount(ladder.work.test, 'test item')}, metric: {metric_title(ladder.work.metric)}")
    if ladder.seeds:
        texts.append(amount(len(ladder.seeds), "seed"))
    if ladder.margin is not None:
        texts.append(f"margin {margin_text(ladder)}")
    if device := ladder.machine.get("device"):
        texts.append(str(device))
    texts.append(date(ladder.created))
    return texts


def date(seconds: float) -> str:
    """A date in UTC, so that a report does not depend on where it is written."""
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(seconds)).lstrip("0")


def unfinished(ladder: Ladder) -> str:
    """The state of a ladder that is not finished, '' if it is."""
    if ladder.status == "finished":
        return ""
    if ladder.status == "running":
        return f"{PARTIAL_REPORT} ({ladder.stage})."
    end = "was stopped" if ladder.status == "stopped" else "failed"
    when = "" if ladder.stage == "done" else f" while {ladder.stage}"
    return f"Partial report: the ladder {end}{when}{f': {ladder.reason}' if ladder.reason else '.'}"


def reading(ladder: Ladder) -> list[str]:
    """What intervals, ranges and times mean."""
    if len(ladder.seeds) > 1:
        intervals = "They account for the choice of test items and the variation between seeds."
        ranges = "Two values with a dash are the lowest and the highest seed, not a confidence interval."
    else:
        intervals = (
            "They account for the choice of test items, and for a variation between seeds that is assumed, because one "
            "seed cannot show it."
        )
        ranges = "Ratios of times and energies are from one timing each."
    texts = [
        f"Brackets are 95% confidence intervals (CI), pointwise except for differences. {intervals}",
        ranges,
        "Times of a minute or more are m:ss or h:mm:ss. Training time covers optimizer steps only; total time covers "
        "loading, training, scoring the tuned model and saving, without waiting for the GPU and without scoring the "
        "base model.",
    ]
    if ladder.work and metric_spec(ladder.work.metric).lower_is_better:
        name = metric_spec(ladder.work.metric).title
        texts.append(f"The score is the {name}: lower is better, and a negative difference is an improvement.")
    if any(row.source for row in ladder.rows):
        texts.append(ARTIFACTS)
    if any(row.forgetting for row in ladder.rows):
        texts.append("Forgetting is the rise of the loss on held-out general text over the base model’s.")
    if ladder.benchmarks:
        texts.append(BENCHMARKS)
    return texts


def targets(texts: Sequence[str]) -> str:
    """The heading above a test item's accepted answers."""
    return "Target" if len(texts) == 1 else f"Target (any of {len(texts)})"


def shown(text: str) -> str:
    """Text from files and models with line breaks kept and control characters made visible."""
    return "\n".join(visible(line) for line in text.split("\n"))
