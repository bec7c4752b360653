"""Sentences of the report that hold whatever was measured."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from engine.config.metric_specs import metric_spec
from engine.config.text import visible
from engine.ladder.format import rung, view, whole
from engine.runs.ladder import Ladder, VerdictSentence

TOPICS = {
    "quality": "Quality",
    "time": "Time",
    "energy": "Energy",
    "memory": "Memory",
    "rent": "Renting",
    "prototype": "Prototyping",
    "ship": "Shipping",
    "full": "Tuning everything",
    "data": "Data",
    "caveat": "Caveat",
}


def verdict(ladder: Ladder) -> list[tuple[str, str]]:
    """(topic, what is said about it), sentences that follow each other on one topic as one paragraph."""
    paragraphs = [list(some) for _, some in itertools.groupby(ladder.verdict, key=lambda sentence: sentence.topic)]
    return [(_topic(some), " ".join(sentence.text for sentence in some)) for some in paragraphs]


def _topic(sentences: list[VerdictSentence]) -> str:
    topic = sentences[0].topic
    name = TOPICS.get(topic, topic.capitalize())
    return f"{name}s" if topic == "caveat" and len(sentences) > 1 else name


def title(ladder: Ladder) -> str:
    return f"{ladder.work.model} on {ladder.work.data}" if ladder.work else ladder.preset


def facts(ladder: Ladder) -> list[str]:
    """One line's worth of what this is."""
    names = [rung(row.name) for row in ladder.rows] or list(dict.fromkeys(rung(e.rung) for e in ladder.entries))
    found = [", ".join(names)] if names else []
    if ladder.work:
        found.append(f"{whole(ladder.work.test)} test items, scored by {view(ladder.work.metric)}")
    if ladder.seeds:
        found.append(f"{len(ladder.seeds)} seed{'s' if len(ladder.seeds) != 1 else ''}")
    if device := ladder.machine.get("device"):
        found.append(str(device))
    found.append(when(ladder.created))
    return found


def when(seconds: float) -> str:
    """A date in universal time, so that the same ladder reads the same everywhere."""
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(seconds)).lstrip("0")


def unfinished(ladder: Ladder) -> str:
    """What to know of a ladder that is not through, '' where it is."""
    if ladder.status == "finished":
        return ""
    if ladder.status == "running":
        return f"The ladder was still running ({ladder.stage}) when this was written: what is missing may yet come."
    reason = f": {ladder.reason}" if ladder.reason else "."
    return f"The ladder {'was stopped' if ladder.status == 'stopped' else 'failed'} while {ladder.stage}{reason}"


def reading(ladder: Ladder) -> list[str]:
    """What intervals and ranges mean, and what they do not."""
    several = len(ladder.seeds) > 1
    chance = "which test items were asked and which seeds trained" if several else "which test items were asked"
    found = [
        f"Brackets hold 95 % intervals; they allow for chance in {chance}.",
        "Ranges with a dash run from the lowest to the highest seed; they are not intervals."
        if several
        else "There is one seed: nothing here says how another would have turned out.",
        "Times from a minute on are m:ss or h:mm:ss. Training is the optimizer steps alone; all phases are loading, "
        "training, scoring the tuned model and saving, without waiting for the card and without scoring the base.",
    ]
    if ladder.work and metric_spec(ladder.work.metric).lower_is_better:
        title = metric_spec(ladder.work.metric).title
        found.append(f"The score is the {title}: lower is better, and a negative difference is a gain.")
    if any(row.forgetting for row in ladder.rows):
        found.append("Forgetting is how much the loss on held-out general text rose above the base’s.")
    return found


def comparing() -> str:
    """How to read the comparisons."""
    return (
        "Rungs answered the same items, so differences are taken item by item. Their 95 % intervals hold for all pairs "
        "at once; p for all pairs together is below 0.05 exactly where the interval leaves out zero."
    )


def targets(texts: Sequence[str]) -> str:
    """The heading over a test item's accepted answers."""
    return "Target" if len(texts) == 1 else f"Any of {len(texts)} accepted answers"


def shown(text: str) -> str:
    """Foreign text over its lines, everything in it that could hide or steer made visible."""
    return "\n".join(visible(line) for line in text.split("\n"))
