"""What was run and with what: enough to judge the comparison, and to do it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from engine.config.errors import UserError
from engine.config.preset import flatten
from engine.config.preset_library import effective
from engine.ladder.format import ABSENT, loss, rate, rung, seconds, size, whole
from engine.ladder.report.kept import WHY
from engine.ladder.report.table import Cell, Column, Line, Table, cell, plain
from engine.runs.account import columns_in_short, rows_in_short
from engine.runs.ladder import BASES, Ladder, LadderRun
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir, read_frozen

KINDS = {"probe": "probe", "trial": "rate trial", "run": "run"}
UNSAID = ("title", "about", "slot", "method")
"""Keys that a command does not need to repeat."""


def folder(ladder_dir: LadderDir, entry: LadderRun) -> RunDir | None:
    """The entry's run, None where it has none."""
    return RunDir(ladder_dir.runs / entry.run) if entry.run else None


def work(ladder: Ladder) -> Table | None:
    """What all rungs do alike."""
    facts = ladder.work
    if facts is None:
        return None
    rows = f"{whole(facts.train)} train, {whole(facts.validation)} validation, {whole(facts.test)} test items"
    pairs = {
        "model": facts.model,
        "data": facts.data,
        **({"columns": columns_in_short(facts.columns)} if facts.columns else {}),
        **({"rows of the data": rows_in_short(facts.account)} if facts.account else {}),
        "rows": rows,
        "tokens in the training rows": whole(facts.tokens),
        "optimizer steps": f"{whole(facts.steps)} of {whole(facts.batch)} rows",
        "metric": facts.metric,
        "seeds": ", ".join(map(str, ladder.seeds)),
        "split version": facts.split_version,
        **{
            f"{pair.split('/')[0]} rows also in training, of {whole(found.of)}": ", ".join(
                f"{name} {figure}" for name, figure in found.figures()
            )
            for pair, found in facts.overlap.items()
        },
        **{f"fingerprint of the {name}": value for name, value in facts.fingerprints.items()},
    }
    return two_columns("The work all rungs share", pairs)


def two_columns(title: str, pairs: Mapping[str, Any]) -> Table:
    """Names and values."""
    lines = [Line(Cell(name), plain([value_text(value)])) for name, value in pairs.items()]
    return Table(title, "", [Column("", words=True)], lines)


def differing(ladder: Ladder) -> Table | None:
    """Configuration keys in which the rungs differ."""
    if not ladder.differs:
        return None
    rungs = [row.name for row in ladder.rows if row.name not in BASES]
    rungs = rungs or list(dict.fromkeys(name for values in ladder.differs.values() for name in values))
    lines = [
        Line(Cell(key), plain([value_text(values[name]) if name in values else ABSENT for name in rungs]))
        for key, values in ladder.differs.items()
    ]
    return Table("What differs between the rungs", "key", [Column(rung(name), words=True) for name in rungs], lines)


def machine(ladder: Ladder) -> Table:
    facts = {
        name.replace("_", " "): size(value) if name.endswith("memory") and isinstance(value, int) else value
        for name, value in ladder.machine.items()
    }
    return two_columns("Machine", facts)


def runs(ladder: Ladder) -> Table | None:
    """Every run of the ladder: probes, rate trials, and those that count."""
    if not ladder.entries:
        return None
    columns = [
        Column("kind", words=True),
        Column("seed"),
        Column("learning rate"),
        Column("validation loss"),
        Column("took"),
        Column("expected"),
        Column("outcome", words=True),
        Column("directory", words=True),
    ]
    expected = {e.rung: f"{seconds(e.low)} – {seconds(e.high)}" for e in ladder.estimates}
    lines = [
        Line(
            Cell(rung(entry.rung)),
            [
                cell(KINDS[entry.kind], "this rate won" if entry.chosen else ""),
                Cell(str(entry.seed)),
                Cell(rate(entry.learning_rate)),
                Cell(loss(entry.validation_loss)),
                Cell(seconds(entry.seconds)),
                Cell(expected.get(entry.rung, ABSENT) if entry.kind == "run" else ABSENT),
                cell(WHY.get(entry.status, entry.status), entry.reason, "had been run before" if entry.reused else ""),
                Cell(entry.run or ABSENT),
            ],
            rung=entry.rung,
        )
        for entry in ladder.entries
    ]
    return Table("Runs", "rung", columns, lines)


def commands(ladder_dir: LadderDir, ladder: Ladder) -> list[tuple[str, str]]:
    """(what it does, command line): the whole ladder, its report, and one run of each rung."""
    found = [("The whole ladder", ladder.command)] if ladder.command else []
    found.append(("This report again", shlex.join(["ftbench", "report", ladder.name])))
    told = set()
    for entry in ladder.entries:
        run = folder(ladder_dir, entry) if entry.kind == "run" and entry.rung not in told else None
        command = _run_command(ladder.preset, run) if run else None
        if command:
            told.add(entry.rung)
            found.append((f"{rung(entry.rung)} alone, seed {entry.seed}", command))
    return found


def _run_command(preset: str, run: RunDir) -> str | None:
    """What `ftbench run` has to be told to do this run again; None where that cannot be said any more."""
    try:
        config = read_frozen(run).config
        there = flatten(effective(preset, config.method, {}).config)
    except (UserError, OSError):
        return None
    words = ["ftbench", "run", preset, "--method", config.method]
    for key, value in flatten(config).items():
        if key not in UNSAID and value != there[key]:
            if value is None:
                return None  # the preset sets what the run left unset: no --set unsets it
            words += ["--set", f"{key}={toml(value)}"]
    return shlex.join(words)


def toml(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(str(key))} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def value_text(value: Any) -> str:
    """A configured value as it is read best: bare text, numbers as they are, nothing as a dash."""
    if value is None or value in ("", {}, []):
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return rate(value)
    return toml(value)
