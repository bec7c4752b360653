"""A ladder drawn into lines of styled text: what runs, a bar for each rung with its interval, the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from textual.content import Content

from engine.config.method_specs import RULE_REFERENCE
from engine.config.metric_specs import metric_spec
from engine.config.text import visible
from engine.runs.ladder import Ladder, LadderRun, RungResult
from tui.format import duration, size
from tui.history.scores import mean_text, range_text

MARKS = {"planned": "·", "live": "▸", "finished": "✓", "skipped": "–"}
ASCII_MARKS = {"planned": ".", "live": ">", "finished": "+", "skipped": "-"}
LABEL = 12
"""Columns of a rung's name."""
NAME, REASON = 100, 300
"""Characters of a model's or data set's name, and of why a ladder ended, that are shown."""
FIGURES = 22
"""Columns of `58.1 % [55.6, 60.6]` behind a bar."""


def progress_lines(ladder: Ladder, ascii_only: bool = False) -> Iterator[Content]:
    """One line for each rung: its probe, trials and runs as marks, and what came of them."""
    marks = ASCII_MARKS if ascii_only else MARKS
    for name in dict.fromkeys(entry.rung for entry in ladder.entries):
        mine = [entry for entry in ladder.entries if entry.rung == name]
        parts = [(f"{visible(name, LABEL):<{LABEL}} ", "")]
        for kind in ("probe", "trial", "run"):
            some = [entry for entry in mine if entry.kind == kind]
            if some:
                parts.append((f"{kind} " if kind != "run" else "seeds ", "$foreground-muted"))
                parts += [(marks.get(e.status, "x" if ascii_only else "✗"), _colour(e)) for e in some]
                parts.append(("  ", ""))
        live = next((entry for entry in mine if entry.status == "live"), None)
        wrong = next((entry for entry in mine if entry.reason and entry.status not in ("finished", "live")), None)
        if live:
            parts.append((f"{live.kind} seed {live.seed} at {live.learning_rate:g}", "bold"))
        elif wrong:
            parts.append((visible(wrong.reason, 200), "$text-error"))
        yield Content.assemble(*parts)


def score_bars(ladder: Ladder, columns: int, ascii_only: bool = False) -> Iterator[Content]:
    """The rungs' scores on one scale, each with its interval; the losses where the metric is the loss."""
    rows = [row for row in ladder.rows if row.score is not None and row.score.mean is not None]
    percent = ladder.work is None or metric_spec(ladder.work.metric).is_share
    wide = max(8, columns - LABEL - FIGURES - 2)
    most = max([_high(row) for row in rows] or [1.0])
    top = 1.0 if percent and most > 0.5 else most or 1.0
    for row in ladder.rows:
        label = (f"{visible(row.name, LABEL):<{LABEL}} ", "")
        if row.score is None or row.score.mean is None:
            style = "$foreground-muted" if row.status == "planned" else "$text-error"
            yield Content.assemble(label, (visible(row.status.replace("_", " "), wide), style))
            continue
        unit = " %" if percent else ""
        figures = f" {mean_text(row.score, percent)}{unit} [{range_text(row.score, percent)}]"
        drawn = bar(row.score.mean / top, _low(row) / top, _high(row) / top, wide, ascii_only)
        yield Content.assemble(label, drawn, (figures, ""))


def bar(mean: float, low: float, high: float, columns: int, ascii_only: bool = False) -> Content:
    """A bar up to the mean, and from there on the interval: `████▓▓░░`. Shares of the whole width, cut to it."""
    full, sure, maybe = ("#", "=", "-") if ascii_only else ("█", "▓", "░")
    ends = [min(columns, max(0, round(share * columns))) for share in (low, mean, high)]
    return Content.assemble(
        (full * ends[0] + sure * (ends[1] - ends[0]), "$primary"),
        (maybe * (ends[2] - ends[1]), "$primary"),
        (" " * (columns - ends[2]), ""),
    )


def cost_lines(ladder: Ladder) -> Iterator[str]:
    """What each rung took, as a ratio to full where there is one."""
    full = next((row for row in ladder.rows if row.method == RULE_REFERENCE and row.all_seconds), None)
    for row in ladder.rows:
        if row.all_seconds is None or row.peak is None:
            continue
        peak = row.peak.training
        against = ""
        if full and full.all_seconds and full is not row:
            against = f" ({row.all_seconds.mean / full.all_seconds.mean:.2f} x full's)"
        yield (
            f"{visible(row.name, LABEL):<{LABEL}} {duration(row.all_seconds.mean)} a run{against}, "
            f"peak {size(peak)}, saves {size(row.artifact_bytes)}"
        )


def verdict_lines(ladder: Ladder) -> Iterator[Content]:
    """A paragraph for each topic."""
    for topic, sentences in groupby(ladder.verdict, lambda sentence: sentence.topic):
        text = " ".join(visible(sentence.text) for sentence in sentences)
        yield Content.assemble((f"{topic}: ", "bold"), (text, "$foreground-muted" if topic == "caveat" else ""))


def headline(ladder: Ladder) -> str:
    """What is compared on what, and how far it is."""
    work = ladder.work
    about = ladder.name
    if work:
        about = f"{visible(work.model, NAME)} on {visible(work.data, NAME)}: {work.metric}, {work.test} test items"
    done = _done(ladder.entries)
    seeds = f"{len(ladder.seeds)} seeds" if len(ladder.seeds) > 1 else "one seed"
    ended = ladder.reason if ladder.reason.startswith(ladder.status) else f"{ladder.status} {ladder.reason}"
    state = f"{ladder.stage} {done}" if ladder.status == "running" else ended.strip()
    return visible(f"{about}, {seeds} · {visible(state, REASON)}")


def _done(entries: Sequence[LadderRun]) -> str:
    return f"{sum(entry.is_done for entry in entries)}/{len(entries)}"


def _colour(entry: LadderRun) -> str:
    colours = {"finished": "$text-success", "live": "bold $text-warning", "planned": "$foreground-muted"}
    return colours.get(entry.status, "$foreground-muted" if entry.status == "skipped" else "$text-error")


def _low(row: RungResult) -> float:
    return row.score.low if row.score and row.score.low is not None else _mean(row)


def _high(row: RungResult) -> float:
    return row.score.high if row.score and row.score.high is not None else _mean(row)


def _mean(row: RungResult) -> float:
    return row.score.mean if row.score and row.score.mean is not None else 0.0
