"""What a run answers to a few prompts as it learns: the latest answer to each, and the one before it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from textual.content import Content

from engine.config.text import visible
from engine.runs.events import Sample

TEMPLATE_END = re.compile(r"(?:<\|[^|>]*\|>\s*\w*\s*)+$")
"""Special tokens and roles with which a chat template ends a prompt."""
WHEN = {"before": "base", "after": "trained"}


def sample_lines(samples: Sequence[Sample], step: int | None, width: int, height: int) -> list[Content]:
    """For each prompt: its end, the expected answer, and the model's answers, the latest last.

    `step`: answers up to this step; None for all.
    """
    if not samples:
        return [Content.styled("no answer yet: the model answers at each validation", "$foreground-muted")]
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        if step is None or sample.when == "before" or (sample.step or 0) <= step:
            by_prompt.setdefault(sample.prompt, []).append(sample)
    shown = list(by_prompt.items())[-3:]
    each = max(3, height // max(1, len(shown)))
    lines: list[Content] = []
    for prompt, answers in shown:
        lines += _of_prompt(prompt, answers, width, each)
    return lines[:height]


def _of_prompt(prompt: str, answers: Sequence[Sample], width: int, height: int) -> list[Content]:
    """At most `height` lines."""
    end = " ".join(TEMPLATE_END.sub("", prompt).split())
    lines = [Content.styled(_cut_start(visible(end, 4000), width), "$foreground-muted")]
    lines.append(_labeled("expected", answers[-1].target, width, "$text-success"))
    for one in answers[-(height - 2) :]:
        lines.append(_labeled(_when(one), one.output, width, ""))
    return lines[:height]


def _when(sample: Sample) -> str:
    return f"step {sample.step}" if sample.when == "during" else WHEN[sample.when]


def _labeled(label: str, text: str, width: int, style: str) -> Content:
    name = f"{label:<9} "
    shown = Content.styled(visible(" ".join(text.split()), 4000), style)
    return Content.assemble((name, "$foreground-muted"), shown.truncate(max(10, width - len(name)), ellipsis=True))


def _cut_start(text: str, width: int) -> str:
    """The end of a prompt: questions are there."""
    return text if len(text) <= width else f"…{text[1 - width :]}"
