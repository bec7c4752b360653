"""The directories of judges in a ladder or run, and what readers get from them."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.files import read_json, working_directory, write_atomically
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.preferences import (
    NOT_READ,
    JudgePlan,
    Judgment,
    RatingSummary,
)
from engine.runs.ladder.rung_results import VerdictSentence
from engine.runs.run.folder import StateFolder, directories_with_file, has_file
from engine.runs.run.run_dir import RunDir

JUDGMENTS, RATINGS = "judgments", "ratings"
PLAN, SUMMARY = "plan.json", "summary.json"


@dataclass(frozen=True)
class JudgeDir(StateFolder):
    """The directory of one judge with one rubric, `judgments/NAME` in a ladder's or run's directory.

    One process writes it (`python -m engine.judge`). `verdicts.jsonl` has every verdict as it was received: a stopped
    judgment continues with it.
    """

    KIND: ClassVar[str] = "judgment"

    @property
    def plan_file(self) -> Path:
        return self.path / PLAN

    @property
    def verdicts_file(self) -> Path:
        return self.path / "verdicts.jsonl"

    @property
    def subject(self) -> LadderDir | RunDir:
        """The ladder or run whose answers are compared."""
        return subject_of(self.path.parent.parent)

    def plan(self) -> JudgePlan:
        """The plan. Raises UserError if it is missing, damaged or cannot be read."""
        hint = "delete the directory and start the judge again"
        plan = read_json(self.plan_file, JudgePlan, hint, "judgment.damaged")
        if plan is None:
            raise UserError("no plan of a judge", str(self.plan_file), hint, "judgment.damaged")
        return plan

    def state(self) -> Judgment | None:
        """As `read_state`."""
        return self.read_state(Judgment, "delete it and start the judge again: its verdicts are kept")


def subject_of(path: Path) -> LadderDir | RunDir:
    """The ladder or run of a directory."""
    return LadderDir(path) if has_file(path, "ladder.toml") else RunDir(path)


def named_judge(text: str, where: str) -> str:
    """A judge as a plan has it: a server's address with the model's name, or a model on this machine; file names become
    absolute. `where`: the option that it comes from.

    Raises UserError for an invalid address, and for credentials in it.
    """
    from engine.config.preset_library import with_absolute_paths  # imported when a judge is named: the bench reads none
    from engine.runs.endpoint import parse_endpoint

    if "://" in text or "#" in text or "@" in text:
        return parse_endpoint(text, where).name
    if not text.strip():
        hint = "name a served model as http://localhost:8000/v1#NAME, or a model on this machine"
        raise UserError("no judge", where, hint, "judge.no_model")
    return str(with_absolute_paths({"model.id": text.strip()}, working_directory())["model.id"])


def judge_dir(subject: LadderDir | RunDir, plan: JudgePlan) -> JudgeDir:
    """The directory of a judge with a rubric, whether it exists or not."""
    name = plan.judge.partition("#")[2] or Path(plan.judge).name
    slug = re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[-40:]
    key = hashlib.sha256("\n".join([plan.identity, plan.rubric, *plan.runs]).encode()).hexdigest()[:8]
    return JudgeDir(subject.path / JUDGMENTS / f"{slug or 'judge'}-{key}")


def create_judge(subject: LadderDir | RunDir, plan: JudgePlan) -> JudgeDir:
    """Write a plan into the directory of its judge, which may have verdicts of an earlier start.

    Raises UserError if it is in use, and RunFailed if it cannot be written.
    """
    folder = judge_dir(subject, plan)
    subject.check_files()
    if folder.is_active():
        hint = "wait for it, or stop it with ctrl+c where it was started"
        raise UserError("this judge is already running", folder.name, hint, "judge.already_running")
    try:
        folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.reserve_end()
        write_atomically(folder.plan_file, msgspec.json.format(msgspec.json.encode(plan), indent=1))
    except OSError as error:
        raise RunFailed(f"cannot write {folder.path}: {error.strerror}", "judge.cannot_write") from error
    return folder


def judges(subject: LadderDir | RunDir) -> Iterator[JudgeDir]:
    """The judges of a ladder or run, by name."""
    return map(JudgeDir, sorted(directories_with_file(subject.path / JUDGMENTS, PLAN)))


def ratings_folder(subject: LadderDir | RunDir) -> Path:
    """The folder of people's ratings."""
    return subject.path / RATINGS


def read_ratings(subject: LadderDir | RunDir) -> RatingSummary | None:
    """The summary of people's ratings; None without one. Raises UserError if it is damaged."""
    file, hint = ratings_folder(subject) / SUMMARY, "delete it; `ftbench rate` writes it again"
    return read_json(file, RatingSummary, hint, "rating.damaged_summary")


def preferences_changed(folder: LadderDir) -> float:
    """When what judges and people prefer was written last, in Unix seconds; 0 if never."""
    files = [ratings_folder(folder) / SUMMARY, *(judge.state_file for judge in judges(folder))]
    times = [0.0]
    for file in files:
        with contextlib.suppress(OSError):
            times.append(file.stat().st_mtime)
    return max(times)


def with_preferences(folder: LadderDir, ladder: Ladder) -> Ladder:
    """The ladder with what judges and people prefer, also as sentences of its verdict.

    Added where a ladder is read for its user: its own process knows nothing of judges and people, which can come later.
    A damaged file is a warning.
    """
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
    sentences = [
        *(ratings.sentences if ratings else ()),
        *(text for judgment in judgments for text in judgment.sentences),
    ]
    added = [VerdictSentence("preference", text) for text in sentences]
    is_read = bool(ratings and ratings.pairs) or any(judgment.rates and not judgment.unusable for judgment in judgments)
    verdict = [said for said in ladder.verdict if not (is_read and said.text == NOT_READ)]
    place = next((n for n, said in enumerate(verdict) if said.topic != "quality"), len(verdict))
    return msgspec.structs.replace(
        ladder,
        judgments=judgments,
        ratings=ratings,
        verdict=[*verdict[:place], *added, *verdict[place:]],
        warnings=[*ladder.warnings, *(error.line for error in damaged)],
        warning_codes=[*ladder.warning_codes, *(error.code for error in damaged)],
    )
