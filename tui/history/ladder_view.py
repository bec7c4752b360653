"""A ladder as lines of styled text: progress, a bar with confidence interval per rung, costs, verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from textual.content import Content

from engine.config.quantities import rate
from engine.config.text import amount, visible
from engine.runs.ladder.ladder_state import ARTIFACT_SEPARATOR, TIMING_PROBE, Ladder, LadderEntry
from engine.runs.score_format import difference_with_bounds, summary_lines, tradeoff_lines, with_bounds

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
        parts = [(f"{visible(name, LABEL):<{LABEL}} ", "")]
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


def _trained(entry: LadderEntry) -> str:
    """The rung whose line shows the entry: of an export, the rung of its run."""
    return entry.rung.partition(ARTIFACT_SEPARATOR)[0] if entry.kind == "export" else entry.rung


def _label(entry: LadderEntry) -> str:
    """The kind of a run, or which artifact is exported: `q4_k_m`."""
    return visible(entry.rung.partition(ARTIFACT_SEPARATOR)[2], LABEL) if entry.kind == "export" else entry.kind


def benchmark_lines(ladder: Ladder) -> Iterator[str]:
    """The score of each rung on each benchmark, and in parentheses its difference from the base model's."""
    for benchmark in ladder.benchmarks:
        for row in benchmark.rows:
            score = with_bounds(row.score, benchmark.is_share)
            against = f" ({difference_with_bounds(row.difference, benchmark.is_share)})" if row.difference else ""
            about = f"{visible(benchmark.name, NAME)}: {visible(benchmark.metric, NAME)}"
            yield f"{visible(row.name, LABEL):<{LABEL}} {about} {score}{against}"


def verdict_lines(ladder: Ladder) -> Iterator[Content]:
    """One paragraph per topic; none while runs are missing, which could change each of them."""
    if ladder.status == "running":
        return
    for topic, sentences in groupby(ladder.verdict, lambda sentence: sentence.topic):
        text = " ".join(visible(sentence.text) for sentence in sentences)
        yield Content.assemble((f"{topic}: ", "bold"), (text, "$foreground-muted" if topic == "caveat" else ""))


def summary_view(ladder: Ladder, columns: int) -> Iterator[Content]:
    """Table, headline (once all runs have finished) and figure of the summary; nothing before the first score."""
    summary = ladder.summary
    if summary is None:
        return
    preliminary = ladder.status == "running"
    if preliminary:
        text = f"preliminary: {_done(ladder.entries)} runs have finished; the recommendation needs all of them"
        yield Content.styled(text, "$text-warning")
    yield from map(Content, summary_lines(summary, columns, preliminary))
    if not preliminary:
        yield Content.styled(visible(summary.headline), "bold")
    yield from map(Content, tradeoff_lines(summary, columns))


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
