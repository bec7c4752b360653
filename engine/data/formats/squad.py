"""Questions on a passage with nested answers (Rajpurkar et al. 2016, arXiv:1606.05250); trains on the first answer."""

from __future__ import annotations

from engine.data.columns import ColumnTemplate, column
from engine.data.formats import SYSTEMS, ColumnLookup, DataFormat, DetectedFormat, prompt_completion

_PASSAGES = ("context", "passage", "document", "paragraph", "article")


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    passage, question = columns.find(*_PASSAGES), columns.find("question")
    answers = columns.find("answers", "answer")
    if not (passage and question and answers) or not columns.kinds(answers) & {"a list", "an object"}:
        return None
    prompt = ColumnTemplate(f"{{{passage}}}\n\n{{{question}}}", (("", passage), ("\n\n", question)))
    why = (
        f"columns {passage}, {question}, {answers}: squad (passage and question -> prompt, first answer -> completion)"
    )
    parts = {"prompt": prompt, "completion": column(answers)}
    return DetectedFormat("squad", why, parts | columns.optional_parts(system=SYSTEMS))


FORMAT = DataFormat("squad", 40, detect, prompt_completion.convert)
