"""A ladder as lines of styled text: decision, table and figure of the rungs, progress, verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from msgspec.structs import replace
from textual.content import Content

from engine.config.quantities import rate
from engine.config.text import amount, visible
from engine.runs.ladder.ladder_state import (
    ARTIFACT_SEPARATOR,
    RUNG_COLORS,
    TIMING_PROBE,
    Ladder,
    LadderEntry,
    rung_numbers,
)
from engine.runs.ladder.summary_drawing import Line, summary_lines, tradeoff_lines
from engine.runs.score_format import difference_with_bounds, with_bounds
from tui.live.run_state import RunState, ladder_left

MARKS = {
    "planned": ("·", "$foreground-muted"),
    "live": ("▸", "bold $text-warning"),
    "finished": ("✓", "$text-success"),
    "skipped": ("–", "$foreground-muted"),
}
FAILED = ("✗", "$text-error")
KIND_LABELS = {"probe": TIMING_PROBE, "trial": "trial", "run": "seeds"}
"""Kinds of runs in the order of a line, and the text before their marks."""
LABEL = 12
"""Columns of a rung's name."""
NAME, REASON = 100, 300
"""Maximum characters of a model's or dataset's name, and of the reason why a ladder ended."""


def progress_lines(ladder: Ladder) -> Iterator[Content]:
    """One line per rung: timing probe, trials, runs and exports as marks, then the active run or export or an error."""
    for name in dict.fromkeys(_trained(entry) for entry in ladder.entries):
        mine = [entry for entry in ladder.entries if _trained(entry) == name]
        parts = [(f"{visible(name, LABEL):<{LABEL}} ", rung_color(ladder, name))]
        for kind in dict.fromkeys([*KIND_LABELS, *(_label(entry) for entry in mine if entry.kind == "export")]):
            some = [entry for entry in mine if _label(entry) == kind]
            if some:
                parts.append((f"{KIND_LABELS.get(kind, kind)} ", "$foreground-muted"))
                parts += [MARKS.get(entry.status, FAILED) for entry in some]
                parts.append(("  ", ""))
        live = next((entry for entry in mine if entry.status == "live"), None)
        wrong = next((entry for entry in mine if entry.reason and entry.status not in ("finished", "live")), None)
        if live and live.kind == "export":
            parts.append((f"{_label(live)}: {visible(live.progress or 'starting', 200)}", "bold"))
        elif live:
            what = TIMING_PROBE if live.kind == "probe" else live.kind
            parts.append((f"{what}: seed {live.seed}, learning rate {rate(live.learning_rate)}", "bold"))
        elif wrong:
            parts.append((visible(wrong.reason, 200), "$text-error"))
        yield Content.assemble(*parts)


STAGES = {"probe": "timing probes", "trial": "trials", "run": "runs", "export": "exports"}


def stage_lines(ladder: Ladder, now: float, live: RunState) -> Iterator[Content]:
    """While it runs, how many runs of each stage are done, and the time left of them; `now` in Unix seconds."""
    if ladder.status != "running":
        return
    parts: list[tuple[str, str]] = []
    for kind, title in STAGES.items():
        entries = [entry for entry in ladder.entries if entry.kind == kind]
        if entries:
            active = any(entry.status == "live" for entry in entries)
            mark, style = MARKS["live" if active else "finished" if all(e.is_done for e in entries) else "planned"]
            left = ladder_left(replace(ladder, entries=entries), now, live.name, live.left(now))
            parts += [(f"{mark} ", style), (f"{title} {_done(entries)}", "bold" if active else "")]
            parts.append((f" {left.removeprefix('ladder ')}   " if left else "   ", "$foreground-muted"))
    yield Content.assemble(*parts).rstrip()


def _trained(entry: LadderEntry) -> str:
    """The rung whose line shows the entry: of an export, the rung of its run."""
    return entry.rung.partition(ARTIFACT_SEPARATOR)[0] if entry.kind == "export" else entry.rung


def _label(entry: LadderEntry) -> str:
    """The kind of a run, or which artifact is exported: `merged`."""
    return visible(entry.rung.partition(ARTIFACT_SEPARATOR)[2], LABEL) if entry.kind == "export" else entry.kind


def task_lines(ladder: Ladder) -> Iterator[str]:
    """The score of each rung on each task, and in parentheses its difference from the base model's."""
    for task in ladder.tasks:
        for row in task.rows:
            score = with_bounds(row.score, task.is_share)
            against = f" ({difference_with_bounds(row.difference, task.is_share)})" if row.difference else ""
            about = f"{visible(task.name, NAME)}: {visible(task.metric, NAME)}"
            yield f"{visible(row.name, LABEL):<{LABEL}} {about} {score}{against}"


def verdict_lines(ladder: Ladder, columns: int | None = None) -> Iterator[Content]:
    """A paragraph per topic, caveats last; with `columns` one line each. None while runs are missing, which could
    change each of them.
    """
    if ladder.status == "running":
        return
    paragraphs = [("rule", ladder.summary.headline)] if ladder.summary else []
    for topic, sentences in groupby(ladder.verdict, lambda sentence: sentence.topic):
        paragraphs.append((topic, " ".join(sentence.text for sentence in sentences)))
    for topic, text in sorted(paragraphs, key=lambda paragraph: paragraph[0] == "caveat"):
        line = Content.assemble(
            (f"{topic}: ", "bold"), (visible(text), "$foreground-muted" if topic == "caveat" else "")
        )
        yield line if columns is None else line.truncate(columns, ellipsis=True)


def decision(ladder: Ladder, export: str) -> Content:
    """What to ship, with the key that exports it; preliminary while runs are missing."""
    if (summary := ladder.summary) is None:
        return Content()
    if ladder.status == "running":
        text = f"PRELIMINARY · {_done(ladder.entries)} runs have finished; the recommendation needs all of them"
        return Content.styled(text, "bold $text-warning")
    first, *facts = map(visible, summary.decision or [summary.headline])
    style = f"bold {rung_color(ladder, summary.ship)}" if summary.ship else "bold $text-warning"
    key = [f"{export} export"] if summary.ship and export else []
    return Content.assemble(
        ("■ ", style),
        (first, f"{style} reverse" if summary.ship else style),
        *((f" · {fact}", "") for fact in [*facts, *key]),
    )


def rung_color(ladder: Ladder, rung: str) -> str:
    """The color of its method; '' for no rung."""
    number = rung_numbers(ladder.methods).get(rung)
    return f"$rung-{number % RUNG_COLORS + 1 if number is not None else 0}" if rung else ""


def summary_view(ladder: Ladder, columns: int) -> list[Content]:
    """The table of the summary; nothing before the first score."""
    return _colored(
        ladder, summary_lines(ladder.summary, columns, ladder.status == "running") if ladder.summary else []
    )


def tradeoff_view(ladder: Ladder, columns: int) -> list[Content]:
    """The figure of the summary."""
    return _colored(ladder, tradeoff_lines(ladder.summary, columns) if ladder.summary else [])


def _colored(ladder: Ladder, lines: Sequence[Line]) -> list[Content]:
    colors = {name: rung_color(ladder, name) for name in ("", *ladder.methods)}
    return [Content.assemble(*((text, colors.get(rung, "")) for text, rung in line)) for line in lines]


def headline(ladder: Ladder) -> str:
    """Model, data, metric, seeds and state of the ladder in one line."""
    work = ladder.work
    about = ladder.name
    if work:
        items = amount(work.test, "test item")
        about = f"{visible(work.model, NAME)} on {visible(work.data, NAME)}: {work.metric}, {items}"
    done = _done(ladder.entries)
    seeds = amount(len(ladder.seeds), "seed")
    ended = ladder.reason if ladder.reason.startswith(ladder.status) else f"{ladder.status} {ladder.reason}"
    state = f"{ladder.stage} {done}" if ladder.status == "running" else ended.strip()
    return visible(f"{about}, {seeds} · {visible(state, REASON)}")


def _done(entries: Sequence[LadderEntry]) -> str:
    return f"{sum(entry.is_done for entry in entries)}/{len(entries)}"
