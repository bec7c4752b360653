"""What will happen once a run or a ladder is started, and what is wrong before it is: facts and problems, in words."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.contract.ladder import Plan
from engine.contract.library import called
from engine.contract.modelfiles import EMBEDDED, ModelFiles, find_model
from engine.contract.preset import Effective
from engine.contract.schema import Config
from engine.contract.turns import Turn
from engine.planning.changes import changes
from engine.planning.estimate import PARTS, Estimate
from engine.planning.fit import Asked
from engine.planning.room import Room
from tui.forecast import Forecast, forecast, label
from tui.glance import signature
from tui.machine import Other
from tui.show import count, size
from tui.widgets.method_list import NAMES, TRAINS


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    text: str
    do: str = ""
    blocking: bool = False
    """It would fail for certain."""


@dataclass(frozen=True)
class Fact:
    """A line of what will happen: `memory  784 MiB of 23.5 GiB`."""

    name: str
    text: str
    style: str = ""


@dataclass(frozen=True)
class Prospect:
    """A whole answer."""

    title: str
    facts: list[Fact]
    problems: list[Problem]

    @property
    def blocked(self) -> bool:
        return any(problem.blocking for problem in self.problems)


@dataclass(frozen=True)
class Scene:
    """The machine as it is now."""

    runs: Path
    room: Room | None = None
    foreign: Sequence[Other] = ()
    """Processes on the card that are no runs of ours."""
    turns: Sequence[Turn] = ()


@dataclass(frozen=True)
class Report:
    """What the engine found in the data: None until it has answered."""

    answer: dict[str, Any] | None = None
    error: str = ""
    asked: bool = True
    """Whether an answer is still to come."""

    @property
    def rows(self) -> dict[str, int]:
        return self.answer["rows"] if self.answer else {}

    @property
    def longest(self) -> int | None:
        """Tokens of the longest training row before the cut."""
        lengths = self.answer["lengths"].get("train") if self.answer else None
        return int(lengths["tokens"]["max"]) if lengths else None


class Reports:
    """What the engine said of data it has been asked about, until the data's files change."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[str, Any]] = {}

    def key(self, arguments: dict[str, Any]) -> bytes:
        """What an answer depends on; other runs' settings do not."""
        try:
            mark = signature(arguments["data"]["id"])[1]
        except OSError:
            mark = []
        return msgspec.json.encode([mark, arguments])

    def known(self, key: bytes) -> Report | None:
        answer = self._known.get(key)
        return Report(answer, asked=False) if answer else None

    def keep(self, key: bytes, report: Report) -> None:
        if report.answer:
            self._known[key] = report.answer


def run_prospect(name: str, chosen: Effective, scene: Scene, report: Report) -> Prospect:
    """One run of the chosen configuration."""
    config, files = chosen.config, find_model(chosen.config.model)
    found = forecast(config, files, scene.room, report.longest)
    facts = [
        *_what(config, files, found, report),
        Fact("steps", _steps(config, found.estimate, report)),
        Fact("learning", _learning(config)),
        Fact("scoring", _scoring(config, report)),
        *_memory(found, scene.room, report.longest),
        *_disk([found], scene.runs),
        *_turn(scene),
    ]
    problems = [
        *_model_problems(config, files),
        *_data_problems(config, report),
        *_memory_problems([found], files, scene),
    ]
    problems += [*_disk_problems([found], scene.runs), *_foreign_problems(scene)]
    problems += [Problem(note) for note in chosen.notes]
    return Prospect(f"{config.title or name} · {NAMES[config.method]}", facts, problems)


def ladder_prospect(plan: Plan, scene: Scene, report: Report) -> Prospect:
    """A ladder: its rungs one after another, as ordinary runs."""
    first = plan.rungs[0].config
    files = find_model(first.model)
    found = [forecast(rung.config, files, scene.room, report.longest) for rung in plan.rungs]
    runs = len(plan.rungs) * (len(plan.seeds) + (plan.learning_rates if plan.learning_rates > 1 else 0))
    rungs = ", ".join(rung.name for rung in plan.rungs)
    facts = [
        *_what(first, files, None, report),
        Fact("rungs", f"base, {rungs}; {len(plan.seeds)} seed{'s' * (len(plan.seeds) > 1)}: {runs} runs"),
        Fact("steps", f"{_steps(first, None, report)}; the same work for all"),
        Fact("scoring", _scoring(first, report)),
    ]
    if plan.probe:
        facts.append(Fact("time", "a few steps of each rung are measured first; then the ladder says how long"))
    for rung, one in zip(plan.rungs, found, strict=True):
        facts += _memory(one, scene.room, report.longest, rung.name, parts=False)
    facts += [*_disk(found, scene.runs), *_turn(scene)]
    problems = [*_model_problems(first, files), *_data_problems(first, report), *_memory_problems(found, files, scene)]
    problems += [*_disk_problems(found, scene.runs), *_foreign_problems(scene)]
    return Prospect(f"ladder of {called(plan.preset)}", facts, problems)


def _what(config: Config, files: ModelFiles, found: Forecast | None, report: Report) -> Iterator[Fact]:
    if config.model.id == EMBEDDED:
        where = "comes with ftbench"
    else:
        where = f"fetched from the Hub: {files.fetch}" if files.fetch else str(files.folder or "")
    yield Fact("model", f"{config.model.id}  {where}")
    if found and found.estimate:
        whole, trained = found.estimate.parameters, found.estimate.trainable
        share = f"{count(trained)} of {count(whole)} parameters ({trained / whole:.1%})"
        yield Fact("method", f"{NAMES[config.method]}: {TRAINS[config.method]}; trains {share}")
    elif found:
        yield Fact("method", f"{NAMES[config.method]}: {TRAINS[config.method]}")
    yield Fact("data", f"{config.data.id}  {_rows(report)}")


def _rows(report: Report) -> str:
    if report.answer is None:
        return (report.error and "cannot be used") or ("reading it …" if report.asked else "not read")
    rows = report.rows
    cut = report.answer["cut"]["train"]
    return (
        f"{rows['train']:,} train, {rows['validation']:,} validation, {rows['test']:,} test rows"
        f"{f'; {cut:,} cut' if cut else ''}; {report.answer['format']}"
    )


def _steps(config: Config, estimate: Estimate | None, report: Report) -> str:
    """`200 of 16 rows (2 epochs), each 2 passes of 8`: the effective batch is what a step learns from."""
    train, rows = config.train, report.rows.get("train")
    per_epoch = math.ceil(rows / train.batch) if rows else None
    if train.steps:
        steps = f"{train.steps:,}" + (f" ({train.steps / per_epoch:.3g} epochs)" if per_epoch else "")
    else:
        steps = f"{max(1, round(train.epochs * per_epoch)):,}" if per_epoch else "?"
        steps += f" ({train.epochs:g} epoch{'s' if train.epochs != 1 else ''})"
    words = f"{steps}, effective batch {train.batch}"
    if estimate:
        micro = estimate.micro_batch
        equal = train.batch % micro == 0
        words += f" = {micro} a pass × {train.batch // micro}" if equal else f", of the longest rows {micro} a pass"
        words += ", activations recomputed" if estimate.gradient_checkpointing else ""
    return words


def _learning(config: Config) -> str:
    train = config.train
    return f"rate {train.learning_rate:g}, {train.schedule}, warm-up {train.warmup:.0%}, {config.optimizer.name}"


def _scoring(config: Config, report: Report) -> str:
    evaluation = config.evaluation
    if evaluation.when == "never":
        return "none"
    test = report.rows.get("test")
    rows = min(test, evaluation.rows or test) if test else evaluation.rows
    when = {"both": "before and after", "after": "after"}[evaluation.when]
    return f"{when} training, {f'{rows:,}' if rows else 'all'} test rows, {evaluation.metric}"


def _memory(
    found: Forecast, room: Room | None, longest: int | None, name: str = "memory", parts: bool = True
) -> Iterator[Fact]:
    estimate = found.estimate
    if estimate is None or room is None:
        yield Fact(name, found.why, "$foreground-muted")
        return
    rows = f"rows of {estimate.rows.length} tokens" + ("" if longest else ", the most the preset allows")
    style = {"fits": "$text-success", "tight": "$text-warning"}.get(found.verdict, "$text-error")
    head = f"{size(estimate.peak)} of {size(room.total)} ({room.name})"
    yield Fact(name, f"{head}: {found.verdict}", style)
    if not parts:
        return
    yield Fact("", f"{label([found])}; {rows}", "$foreground-muted")
    training = estimate.training.total >= estimate.evaluation.total
    peak = estimate.training if training else estimate.evaluation
    moment = "most while training: " if training else "most in the held-out pass: "
    inside = [f"{part} {size(peak.parts[part])}" for part in PARTS if part in peak.parts]
    beside = f" · Python and libraries about {size(room.beside)} beside" if room.beside else ""
    yield Fact("", moment + " · ".join(inside) + beside, "$foreground-muted")


def needed_disk(found: Iterable[Forecast]) -> int | None:
    """Bytes: the checkpoints that are kept and the one in the making, and the model; by the formula.

    Of an adapter the adapter and its optimizer state, of full fine-tuning the weights and theirs.
    """
    total = 0
    for one in found:
        if one.estimate is None or one.config is None:
            return None
        parts = one.estimate.training.parts
        saved = parts["weights"] if one.method == "full" else parts.get("adapters", 0)
        state = one.estimate.static - parts["weights"] - parts.get("adapters", 0)
        total += (one.config.train.keep_checkpoints + 1) * (saved + state) + saved
    return total


def _disk(found: Sequence[Forecast], runs: Path) -> Iterator[Fact]:
    need, free = needed_disk(found), free_disk(runs)
    about = f"about {size(need)}" if need is not None else "unknown"
    yield Fact("disk", f"{about} for checkpoints and model (a guess); {size(free)} free in {runs}")


def free_disk(runs: Path) -> int:
    """Bytes free where the runs will lie."""
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    return shutil.disk_usage(there).free


def _turn(scene: Scene) -> Iterator[Fact]:
    held = [turn for turn in scene.turns if turn.place == 0]
    waiting = len(scene.turns) - len(held)
    if not held and not waiting:
        yield Fact("turn", "nothing runs: it begins at once")
        return
    names = ", ".join(turn.run.name for turn in held) or "a run about to begin"
    more = f" and {waiting} that wait" if waiting else ""
    yield Fact("turn", f"waits behind {names}{more}", "$text-warning")


def _model_problems(config: Config, files: ModelFiles) -> Iterator[Problem]:
    if files.wrong:
        do = f"`ftbench pull {config.model.id}`, or give a folder" if files.fetch else "check model.id"
        yield Problem(f"model {config.model.id}: {files.wrong}", do, blocking=True)
    elif files.fetch:
        yield Problem(f"model {config.model.id} is not on this machine: it is fetched first", "takes a network")


def _data_problems(config: Config, report: Report) -> Iterator[Problem]:
    if report.error:
        yield Problem(report.error, "", blocking=True)
    if report.answer is None:
        return
    if report.answer["refused"]:
        yield Problem(report.answer["refused"], "", blocking=True)
    for warning in report.answer["warnings"]:
        yield Problem(f"data: {warning}")


def _memory_problems(found: Sequence[Forecast], files: ModelFiles, scene: Scene) -> Iterator[Problem]:
    for one in found:
        if one.estimate is None or scene.room is None or one.verdict not in ("tight", "does not fit"):
            continue
        what = f"{NAMES[one.method]} {'is tight' if one.verdict == 'tight' else 'does not fit'} by the formula: "
        held = f", of which others hold {size(scene.room.used)}" if scene.room.used else ""
        what += f"{size(one.estimate.peak)} of {size(scene.room.total)}{held}"
        yield Problem(what, _remedies(one, files, scene.room))


def _remedies(one: Forecast, files: ModelFiles, room: Room) -> str:
    """Single settings that would make it fit, by the formula; and the method that takes less."""
    smaller = {"full": "LoRA or QLoRA", "lora": "QLoRA", "qlora": "a smaller model"}[one.method]
    if one.verdict == "tight" or one.estimate is None or one.config is None or files.table is None:
        return f"if it runs out of memory: a smaller train.micro_batch or train.max_length, or {smaller}"
    ways = changes(Asked(one.config, files.table, one.estimate.rows, room))
    words = [
        " and ".join(f"{key} = {str(value).lower()}" for key, value in way.settings.items()) + f" ({size(way.peak)})"
        for way in ways
    ]
    return ", or ".join([*words, smaller])


def _disk_problems(found: Sequence[Forecast], runs: Path) -> Iterator[Problem]:
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Problem(f"{there} cannot be written to", "start ftbench with --runs DIR", blocking=True)
    need, free = needed_disk(found), free_disk(runs)
    if need is not None and need > free:
        what = f"the disk has {size(free)} free, and checkpoints and model take about {size(need)}"
        yield Problem(what, f"free some space, or set train.keep_checkpoints = 1; runs lie in {runs}", blocking=True)


def _foreign_problems(scene: Scene) -> Iterator[Problem]:
    for other in scene.foreign:
        held = f" ({size(other.bytes)})" if other.bytes else ""
        yield Problem(
            f"process {other.pid} {other.name}{held} is on the card: time and memory will not be this run's alone",
            "end it, or measure later",
        )
