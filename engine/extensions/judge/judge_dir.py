"""The directories of judges in a ladder or run, and what is said of their work and of people's ratings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.files import read_json, working_directory, write_atomically
from engine.config.preset_library import with_absolute_paths
from engine.config.quantities import decimal, duration, integer, percent
from engine.config.text import amount, visible
from engine.extensions.judge.preferences import JudgePlan, Judgment, RatedPair, RatingSummary
from engine.runs.endpoint import parse_endpoint, token_cost
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.folder import FolderEntry, StateFolder, directories_with_file, has_file
from engine.runs.run.result import MIN_ITEMS, Interval
from engine.runs.run.run_dir import RunDir

JUDGMENTS, RATINGS = "judgments", "ratings"
PLAN, SUMMARY = "plan.json", "summary.json"
SETTLED = 0.95
"""Confidence from which more ratings are said not to change the finding."""


@dataclass(frozen=True)
class JudgeDir(StateFolder):
    """The directory of one judge with one rubric, `judgments/NAME` in a ladder's or run's directory.

    One process writes it (`python -m engine.extensions.judge`). `verdicts.jsonl` has every verdict as it was received:
    a stopped judgment continues with it.
    """

    KIND: ClassVar[str] = "judgment"
    plan_file = FolderEntry(PLAN)
    verdicts_file = FolderEntry("verdicts.jsonl")

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
    return LadderDir(path) if has_file(path, "ladder.toml") else RunDir(path)


def named_judge(text: str, where: str) -> str:
    """A judge as a plan has it: a server's address with the model's name, or a model on this machine; file names become
    absolute. `where`: the option that it comes from.

    Raises UserError for an invalid address, and for credentials in it.
    """
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


def kappa_text(kappa: Interval) -> str:
    """`0.62 [0.45, 0.79]`."""
    bounds = f" [{decimal(kappa.low, 2)}, {decimal(kappa.high, 2)}]" if kappa.low is not None else ""
    return f"{decimal(kappa.mean, 2)}{bounds}"


def settled_text(pair: RatedPair) -> str:
    """Whether more ratings would change the finding; '' where that is unknown or nothing is left."""
    left = pair.of - pair.items
    if pair.settled is None or left <= 0:
        return ""
    if pair.settled >= SETTLED:
        sure = "more than 99%" if pair.settled > 0.99 else percent(pair.settled, 0)
        return f"Rating the other {amount(left, 'item')} would not change this ({sure} sure)."
    return f"Rating the other {amount(left, 'item')} may change this."


def progress_of_ratings(summary: RatingSummary | None) -> list[str]:
    """How far the results are decided, without the names of rungs: raters must not see which one is ahead."""
    lines = []
    for number, pair in enumerate(summary.pairs if summary else [], 1):
        label = f"comparison {number}: " if summary and len(summary.pairs) > 1 else ""
        rated = f"{pair.items} of {pair.of} items rated by {people_text(pair)}"
        if pair.win_rate.rate.low is None:
            status = f"at least {MIN_ITEMS} are needed for a result"
        elif pair.win_rate.finding == "undecided":
            status = "no significant preference yet"
        else:
            status = "decided: one of the two is significantly preferred"
        lines.append(f"{label}{rated}; {status}. {settled_text(pair)}".rstrip())
    return lines


def people_text(pair: RatedPair) -> str:
    """`1 person`, `2 people`."""
    return "1 person" if pair.raters == 1 else f"{pair.raters} people"


def expected_lines(plan: JudgePlan, items: int, requests: int, reused: int, tokens: tuple[int, int]) -> list[str]:
    """What a judge will compare and take at most, before it starts. tokens: of prompts, and at most of verdicts."""
    pairs = ", ".join(f"{visible(a)} with {visible(b)}" for a, b in plan.pairs)
    known = f", {reused:,} verdicts are known" if reused else ""
    lines = [
        f"judge {visible(plan.judge)}",
        f"compares {pairs} on {amount(items, 'test item')}, in both orders",
        f"at most {amount(requests, 'request')}{known}: about {tokens[0]:,} tokens of prompts and at most "
        f"{tokens[1]:,} of verdicts",
    ]
    if plan.price:
        cost = token_cost(plan.price, *tokens)
        lines.append(f"costs at most about {cost:.2f}, at {plan.price[0]:g} and {plan.price[1]:g} per million tokens")
    limits = [f"{plan.token_limit:,} tokens"] if plan.token_limit is not None else []
    limits += [f"a cost of {plan.cost_limit:g}"] if plan.cost_limit is not None else []
    lines.append(f"stops at {' or '.join(limits)}" if limits else "no limit: set one with --max-tokens or --max-cost")
    return lines


def progress_text(state: Judgment) -> str:
    """`412 of 1,200 verdicts, 3:10 left, 1,204,311 tokens, 0.41`."""
    parts = [visible(state.note)] if state.note and state.status == "running" else []
    parts.append(f"{integer(state.done)} of {integer(state.requests)} verdicts")
    asked = state.done - state.reused  # of this start
    if asked > 0 and state.seconds and state.done < state.requests:
        parts.append(f"{duration(state.seconds / asked * (state.requests - state.done))} left")
    if tokens := state.prompt_tokens + state.completion_tokens:
        parts.append(f"{integer(tokens)} tokens")
    if state.cost is not None:
        parts.append(f"cost {state.cost:.2f}")
    if state.retries:
        parts.append(f"{amount(state.retries, 'attempt')} repeated")
    return ", ".join(parts)
