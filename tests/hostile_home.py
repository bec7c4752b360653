"""Home of a user with hostile text everywhere: data, names, presets, settings, models, runs, ladders, logs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import msgspec
from command import SMALL
from hostile import strings
from made_ladder import made_ladder
from made_models import made_model

import engine
from engine.config.preset_library import resolve_preset
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.rung_results import LadderTask, TaskRow, VerdictSentence
from engine.runs.run import events, run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.result import Interval
from engine.runs.run.run_dir import RunDir

LONGEST_NAME = 150
"""Characters of a file name."""
LONG_LINE = 1 << 20
FINISHED = "whole"
"""Part of the name of the finished run."""


@dataclass(frozen=True)
class Home:
    """Paths of the hostile files, and the environment that selects them."""

    folder: Path
    runs: Path
    data: Path
    """A folder with hostile rows in files with hostile names."""
    model: Path
    """A copy of the small model in a folder with a hostile name."""
    broken: Path
    """A model with a hostile, invalid config.json."""
    preset: Path
    """An invalid preset with a hostile name and hostile keys."""
    died: RunDir
    ladder: LadderDir

    @property
    def env(self) -> dict[str, str]:
        names = {"XDG_CONFIG_HOME": "config", "XDG_STATE_HOME": "state", "XDG_CACHE_HOME": "cache"}
        own = {variable: str(self.folder / name) for variable, name in names.items()}
        return {**own, "FTBENCH_RUNS": str(self.runs), "FTBENCH_LOCKS": str(self.folder / "locks"), "EDITOR": "true"}


def as_name(text: str) -> str:
    """The text as a valid file name."""
    return text.replace("/", "").replace("\x00", "")[:LONGEST_NAME]


def one_name(source: str) -> str:
    """Control sequences of every kind in one name."""
    return as_name("".join(strings(source)[number] for number in (0, 8, 10, 21, 28, 30, 33)))


def toml(text: str) -> str:
    """A TOML string with every character escaped."""
    return '"' + "".join(f"\\U{ord(character):08x}" for character in text) + '"'


def hostile_home(folder: Path) -> Home:
    """Create all files, with hostile strings of the sources f(iles), r(ows), p(resets), s(ettings), m(odels),
    e(vents), l(ogs) and n(ames of runs).
    """
    data = folder / one_name("f")
    for path, count in ((folder, 30), (data, 4)):
        path.mkdir(exist_ok=True)
        for number, text in enumerate(strings("f")[:count]):
            rows = [{"prompt": f"{n} {row}", "completion": f"{row} {n}"} for n in range(2) for row in strings("r")]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (path / f"{number:02}{as_name(text)}.jsonl").write_text(lines)
    runs = folder / "runs"
    ladder = _ladder(runs)
    home = Home(folder, runs, data, _model(folder), _broken_model(folder), _presets(folder), _runs(runs), ladder)
    _settings(folder)
    return home


def _model(folder: Path) -> Path:
    copy = folder / "models" / one_name("m")
    shutil.copytree(SMALL, copy)
    return copy


def _broken_model(folder: Path) -> Path:
    """A model whose configuration has hostile text in every string."""
    path = folder / "models" / f"broken{one_name('m')}"
    path.mkdir()
    table = json.loads((Path(engine.__file__).parent / "assets" / "tiny" / "config.json").read_text())
    text = " ".join(strings("m"))
    table |= {name: text for name, value in table.items() if isinstance(value, str)}
    table |= {"architectures": [text], text: text, "num_hidden_layers": text}
    (path / "config.json").write_text(json.dumps(table))
    return path


LAST_SLOT = 9
"""The preset of this slot, which the walk through the bench selects last, has the model with a hostile name."""


def _presets(folder: Path) -> Path:
    presets = folder / "config" / "ftbench" / "presets"
    presets.mkdir(parents=True)
    for number, text in enumerate(strings("p")):
        slot = f"slot = {number + 1}\n" if number < LAST_SLOT else ""
        broken = f"{toml(text)} = 1\n" if number % 5 == 4 else ""
        model = f"[model]\nid = {toml(str(folder / 'models' / one_name('m')))}\n" if number == LAST_SLOT - 1 else ""
        content = f"title = {toml(text)}\nabout = {toml(text)}\n{slot}{broken}{model}"
        (presets / f"h{number:02}.toml").write_text(content)
    named = presets / f"{one_name('p')}.toml"
    named.write_text(f"title = {toml(strings('p')[0])}\n[train]\n{toml(strings('p')[1])} = 1\n")
    return named


def _settings(folder: Path) -> None:
    keys = "".join(f"{toml(text)} = {toml(text)}\n" for text in strings("s"))
    (folder / "config" / "ftbench" / "config.toml").write_text(
        f"theme = {toml(strings('s')[0])}\n{toml(strings('s')[1])} = 1\n[keys]\n{keys}"
    )
    state = folder / "state" / "ftbench"
    state.mkdir(parents=True)
    recent = [f"/{as_name(text)}.jsonl" for text in strings("s")]
    (state / "recent.json").write_bytes(msgspec.json.encode(recent))
    (state / "theme").write_text(f"{strings('s')[8]}\nauto\n")


def _ladder(runs: Path) -> LadderDir:
    """A finished ladder with hostile names, rungs, reasons and sentences."""
    directory, ladder = made_ladder(runs, hostile=True)
    text = " ".join(strings("e"))
    assert ladder.work is not None
    ladder.work.model = ladder.work.data = ladder.name = ladder.reason = text
    ladder.warnings = strings("e")
    ladder.verdict += [VerdictSentence(topic="quality", text=text)]
    for entry, reason in zip(ladder.entries, strings("e"), strict=False):
        entry.reason, entry.status = reason, "failed"
    for row, name in zip(ladder.rows, strings("e"), strict=False):
        row.status, row.reason = name, name
    ladder.rows[0].name = strings("e")[0]
    scores = Interval(mean=0.5, low=0.4, high=0.6, rows=40)
    rows = [TaskRow(name=name, score=scores, difference=scores, finding="worse") for name in strings("e")]
    ladder.tasks = [
        LadderTask(name=name, metric=name, higher_is_better=True, is_share=True, items=40, rows=rows[:3])
        for name in strings("e")
    ]
    directory.write_state(ladder)
    assert directory.state() is not None  # the file is valid
    return directory


def _runs(runs: Path) -> RunDir:
    """Runs that died, with hostile text in every field, and a run for each hostile name; returns the latest."""
    for text in strings("n")[:30]:
        run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
        run.path.rename(runs / f"20260101-000000-{as_name(text)}-0a0b")
    finished = made_model(runs, "lora")
    finished.path.rename(runs / f"20260101-000000-{FINISHED}{one_name('n')}-0a0b")
    made = [_died(runs) for _ in range(2)]
    return max(made, key=lambda run: run.name)


def _died(runs: Path) -> RunDir:
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    log = EventLog(run.events_file)
    log.write(events.Hello(pid=1, host=strings("e")[0], version="0"))
    for text in strings("e"):
        log.write(events.Phase(name="data", note=text))
        log.write(events.Phase(name="waiting", note=text))
        log.write(events.Phase(name=text))
        log.write(events.Warning(code="x", text=text))
    log.write(events.Warning(code="x", text=strings("e")[0] * (LONG_LINE // 8)))
    log.write(events.End(status="failed", reason=strings("e")[8]))
    run.log_file.write_text("\n".join([*strings("l"), strings("l")[0] * (LONG_LINE // 8), *strings("l")]))
    os.utime(run.config_file)
    return run
