"""What a ladder says of judges and people where it is read (`ftbench.reports`)."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.text import visible
from engine.extensions.judge.judge_dir import SUMMARY, judges, progress_text, ratings_folder, read_ratings
from engine.extensions.judge.preferences import TO_COMPARE, Judgment, RatingSummary
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.report_hooks import ReportPart
from engine.runs.ladder.rung_results import NOT_READ, VerdictSentence


def read_preferences(folder: LadderDir) -> tuple[list[Judgment], RatingSummary | None, list[UserError]]:
    """What judges and people prefer, and the errors of damaged files."""
    judgments: list[Judgment] = []
    ratings, damaged = None, list[UserError]()
    for judge in judges(folder):
        try:
            if (state := judge.state()) is not None and state.done:
                judgments.append(state)
        except UserError as error:
            damaged.append(error)
    try:
        ratings = read_ratings(folder)
    except UserError as error:
        damaged.append(error)
    return judgments, ratings, damaged


def extend(folder: LadderDir, ladder: Ladder) -> Ladder:
    """With the sentences on what judges and people prefer, or on how to compare answers if no one has read them."""
    judgments, ratings, damaged = read_preferences(folder)
    sentences = [
        *(ratings.sentences if ratings else ()),
        *(text for judgment in judgments for text in judgment.sentences),
    ]
    added = [VerdictSentence("preference", text) for text in sentences]
    is_read = bool(ratings and ratings.pairs) or any(judgment.rates and not judgment.unusable for judgment in judgments)
    verdict = [
        VerdictSentence(said.topic, f"{NOT_READ} {TO_COMPARE}") if said.text == NOT_READ else said
        for said in ladder.verdict
        if not (is_read and said.text == NOT_READ)
    ]
    place = next((n for n, said in enumerate(verdict) if said.topic != "quality"), len(verdict))
    return msgspec.structs.replace(
        ladder,
        verdict=[*verdict[:place], *added, *verdict[place:]],
        warnings=[*ladder.warnings, *(error.line for error in damaged)],
        warning_codes=[*ladder.warning_codes, *(error.code for error in damaged)],
    )


def facts(folder: LadderDir) -> dict[str, Any]:
    """`judgments` and `ratings`, the content of their files."""
    judgments, ratings, _ = read_preferences(folder)
    return {"judgments": msgspec.to_builtins(judgments), "ratings": msgspec.to_builtins(ratings)}


def changed(folder: LadderDir) -> float:
    """When what judges and people prefer was written last."""
    files = [ratings_folder(folder) / SUMMARY, *(judge.state_file for judge in judges(folder))]
    times = [0.0]
    for file in files:
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def progress(folder: LadderDir) -> list[str]:
    """Of the judges that are at work, and why one failed."""
    lines = []
    for judge in judges(folder):
        with contextlib.suppress(UserError):  # damaged: a warning of the ladder
            if (state := judge.state()) is None:
                continue
            failed = state.status == "failed"
            if (active := judge.is_active()) or failed:
                why = f": {state.reason}" if failed and not active else ""
                lines.append(visible(f"judge {state.title}: {progress_text(state)}{why}"))
    return lines


def part(folder: LadderDir) -> ReportPart:
    from engine.extensions.judge.preference_tables import (  # not in the bench
        EXPLAINED,
        judge_prompts,
        preference_tables,
    )

    judgments, ratings, _ = read_preferences(folder)
    return ReportPart(preference_tables(judgments, ratings), EXPLAINED, judge_prompts(judgments))
