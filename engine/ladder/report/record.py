"""What a ladder's report has besides results: configuration, runs, commands."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any

from engine.config.metric_specs import metric_text
from engine.config.quantities import ABSENT, count, duration, integer, rate, size
from engine.config.text import amount
from engine.ladder.phrases import rung_title
from engine.ladder.report.tables import (
    Cell,
    ReportColumn,
    ReportTable,
    TableLine,
    cell,
    report_table,
    rung_line,
    status_word,
)
from engine.runs.ladder.ladder_state import TIMING_PROBE, ComparisonState, Ladder, LadderEntry, is_base
from engine.runs.run.usage import PARTS, exceptions, summarize_columns, summarize_rows
from engine.runs.score_format import loss

KINDS = {"probe": TIMING_PROBE, "trial": "learning-rate trial", "run": "run", "export": "export"}


def configuration(ladder: Ladder) -> dict[str, list[ReportTable]]:
    """The tables of the section Configuration, without empty tables.

    `shown`: always visible. `folded`: visible after a click. `machine`: versions and hardware.
    """
    machine = {
        name.replace("_", " "): size(value) if name.endswith("memory") and isinstance(value, int) else value
        for name, value in ladder.machine.items()
    }
    tables = {
        "shown": (settings_table(ladder), weights(ladder), work(ladder)),
        "folded": (two_columns("Settings shared by all rungs", ladder.config), runs(ladder)),
        "machine": (two_columns("Versions", ladder.versions), two_columns("Machine", machine)),
    }
    return {place: [table for table in given if table and table.lines] for place, given in tables.items()}


def work(ladder: Ladder) -> ReportTable | None:
    """Data, model and training that all rungs share."""
    facts = ladder.work
    if facts is None:
        return None
    rows = f"{integer(facts.train)} train, {integer(facts.validation)} validation, {amount(facts.test, 'test item')}"
    pairs = {
        "model": facts.model,
        "data": facts.data,
        **({"columns": summarize_columns(facts.columns)} if facts.columns else {}),
        **({"rows read": summarize_rows(facts.data_usage)} if facts.data_usage else {}),
        "rows": rows,
        "tokens in the training rows": integer(facts.tokens),
        "optimizer steps": f"{integer(facts.steps)}, batch size {integer(facts.batch)}",
        "metric": metric_text(facts.metric, facts.metric_reason),
        "seeds": ", ".join(map(str, ladder.seeds)),
        **{
            f"{pair.split('/')[0]} rows also in training, of {integer(overlap.of)}": ", ".join(
                f"{name} {figure}" for name, figure in overlap.figures()
            )
            for pair, overlap in facts.overlap.items()
        },
        **{f"fingerprint: {name}": value for name, value in facts.fingerprints.items()},
    }
    return two_columns("Data, model and training shared by all rungs", pairs)


def word_table(title: str, first: str, heads: Sequence[str], rows: Mapping[str, Sequence[str]]) -> ReportTable:
    """A table of texts: `rows` are a heading and a text for each head."""
    columns = [ReportColumn[list[str]](head, itemgetter(place), words=True) for place, head in enumerate(heads, 1)]
    lines = [[name, *texts] for name, texts in rows.items()]
    return report_table(title, first, lines, lambda line: TableLine(Cell(line[0])), columns)


def two_columns(title: str, pairs: Mapping[str, Any]) -> ReportTable:
    return word_table(title, "", [""], {name: [setting_cell_text(value)] for name, value in pairs.items()})


def settings_table(ladder: Ladder) -> ReportTable:
    rungs = [row.name for row in ladder.rows if not is_base(row.name) and not row.source]
    rungs = rungs or list(dict.fromkeys(name for values in ladder.differs.values() for name in values))
    rows = {key: [setting_cell_text(values.get(name)) for name in rungs] for key, values in ladder.differs.items()}
    return word_table("Settings that differ between rungs", "key", list(map(rung_title, rungs)), rows)


def weights(ladder: Ladder) -> ReportTable | None:
    """How each rung uses the parts of the model, and a line for weights that it leaves out."""
    accounts = {row.name: row.account for row in ladder.rows if row.account}
    known = next(iter(accounts.values()), None)
    if known is None:
        return None
    rows = {
        f"{title}, {count(whole)}": [account.use_of(part) for account in accounts.values()]
        for part, title in PARTS.items()
        if (whole := known.total(parts=[part]))
    }
    others = ["; ".join(exceptions(account)) or ABSENT for account in accounts.values()]
    rows |= {"treated otherwise": others} if {*others} != {ABSENT} else {}
    title = f"Use of the {count(known.parameters)} parameters of the model"
    return word_table(title, "part", list(map(rung_title, accounts)), rows)


def runs(ladder: Ladder) -> ReportTable:
    """Every run of the ladder: timing probes, learning-rate trials and the compared runs."""
    expected = {e.rung: f"{duration(e.low)} – {duration(e.high)}" for e in ladder.estimates}

    def kind(entry: LadderEntry) -> Cell:
        steps = f"{entry.steps} steps" if entry.steps else ""
        return cell(KINDS[entry.kind], steps, "chosen rate" if entry.chosen else "")

    def outcome(entry: LadderEntry) -> Cell:
        reused = "reused" if entry.reused else ""
        disturbed = f"disturbed timing: {entry.disturbed}" if entry.disturbed else ""
        other = f"timing on {entry.other_device}" if entry.other_device else ""
        return cell(status_word(entry.status), entry.reason, entry.selection, reused, disturbed, other)

    columns: list[ReportColumn[LadderEntry]] = [
        ReportColumn("kind", kind, words=True),
        ReportColumn("seed", lambda entry: str(entry.seed)),
        ReportColumn("learning rate", lambda entry: rate(entry.learning_rate)),
        ReportColumn("validation loss", lambda entry: loss(entry.validation_loss)),
        ReportColumn("duration", lambda entry: duration(entry.seconds)),
        ReportColumn("expected", lambda entry: expected.get(entry.rung, ABSENT) if entry.kind == "run" else ABSENT),
        ReportColumn("outcome", outcome, words=True),
        ReportColumn("directory", lambda entry: entry.run or ABSENT, words=True),
    ]
    trials = [entry.seconds or 0.0 for entry in ladder.entries if entry.kind == "trial"]
    notes = [f"The {amount(len(trials), 'learning-rate trial')} took {duration(sum(trials))}."] if trials else []
    return report_table("Runs", "rung", ladder.entries, lambda entry: rung_line(entry.rung), columns, notes)


def commands(ladder: Ladder) -> list[tuple[str, str]]:
    """(title, command line) of the ladder and of its report."""
    lines = [("Run the ladder", from_anywhere(ladder))] if ladder.command else []
    return [*lines, ("Write this report", shlex.join(["ftbench", "report", ladder.name]))]


def from_anywhere(state: ComparisonState) -> str:
    """The command that started it, in the directory that its relative paths refer to."""
    return f"cd {shlex.quote(state.started_in)} && {state.command}" if state.started_in else state.command


def setting_cell_text(value: Any) -> str:
    """A setting's value for reading: text without quotes, small numbers as 2e-4, empty values as a dash, else JSON."""
    if value is None or value in ("", {}, []):
        return ABSENT
    if isinstance(value, str):
        return value
    if isinstance(value, float) and 0 < abs(value) < 0.01:
        return rate(value)
    return json.dumps(value)
