"""The chart of memory: what is drawn of each second is what was used in it."""

from __future__ import annotations

import random
from dataclasses import replace

from textual.content import Content

from tui.charts import BLOCKS
from tui.live.machine import GpuSample, MachineSample, ProcessSample
from tui.widgets.memory_history import (
    BAND,
    EXPECTED,
    FULL,
    HIGHEST,
    MINE,
    OTHERS,
    START,
    Band,
    MemoryHistory,
    Moment,
    draw_history,
)
from tui.widgets.memory_pane import MemoryView

GIB = 1 << 30
TOTAL = 80 * GIB
WIDTH = 605
"""One column per second, next to the scale."""
NEIGHBOR = ProcessSample(7, "vllm", 10 * GIB, "ann")
WORKER = ProcessSample(42, "python", 30 * GIB, "mike")
IDLE = GpuSample(0, "card", TOTAL, 10 * GIB, None, (NEIGHBOR,))
BUSY = replace(IDLE, used=40 * GIB, mine=30 * GIB, own=WORKER)


def cells(lines: list[Content]) -> list[list[tuple[str, str]]]:
    """(character, style) of the cells of each row of the chart, without scale and axis."""
    rows = []
    for line in lines[:-1]:
        styles = dict[int, str]()
        for start, end, style in line.spans:
            styles |= dict.fromkeys(range(start, end), str(style))
        begin = line.plain.index("┤") + 1
        rows.append([(line.plain[at], styles[at]) for at in range(begin, len(line.plain))])
    return rows


def heights(rows: list[list[tuple[str, str]]], column: int) -> tuple[int, int]:
    """Eighths of a row in a column that are drawn as this run's, and as used."""
    mine = used = 0
    for row in rows:
        character, style = row[column]
        level = FULL if character in (OTHERS[0], HIGHEST[0]) else BLOCKS.find(character) if character in BLOCKS else 0
        own = MINE[1] in style.split(" on ")[0]
        mine += level if own else 0
        used += FULL if f" on {OTHERS[1]}" in style else level
    return mine, used


def draw(history: MemoryHistory, run: str = "ours", band: Band | None = None, rows: int = 6) -> list[Content]:
    return list(draw_history(history, TOTAL, run, band, WIDTH, rows, ""))


def test_each_second_shows_what_this_run_and_others_used_in_it() -> None:
    chance = random.Random(1)
    history, used = MemoryHistory(), []
    for _ in range(600):
        own, other, neighbor = (chance.choice((0, chance.uniform(0, 26))) * GIB for _ in range(3))
        by_run = {name: int(bytes_) for name, bytes_ in (("ours", own), ("other", other)) if bytes_}
        history.add(Moment(int(own + other + neighbor), by_run))
        used.append((own, own + other + neighbor))
    for rows in (2, 6, 12):
        drawn, scale = cells(draw(history, rows=rows)), rows * FULL / TOTAL
        for column, (own, total) in enumerate(used):
            mine, height = heights(drawn, column)
            assert abs(mine - own * scale) <= FULL and abs(height - total * scale) <= FULL, column
            if not any(row[column] == HIGHEST for row in drawn):  # the mark fills its cell
                assert (height > mine) == (total > own), f"a neighbor at {column} is drawn as what it is"


def test_a_run_keeps_its_color_when_it_has_ended_and_others_keep_theirs() -> None:
    """Through the view: a neighbor, a start and an end, then another run is watched."""
    traces: dict[str, MemoryHistory] = {}

    def watch(gpu: GpuSample, seconds: int, run: str) -> MemoryView:
        view = MemoryView(MachineSample((gpu,), "", TOTAL, GIB), traces, run=run, live=gpu.own is not None)
        for _ in range(seconds):
            for label, moment in view.moments():
                traces.setdefault(label, MemoryHistory()).add(moment)
        return view

    watch(IDLE, 200, "")
    live = watch(BUSY, 200, "lora-1")
    during = cells(draw(live.history, live.run))
    after = watch(IDLE, 200, "lora-1")
    ended = cells(draw(after.history, after.run))
    for rows, column, part in ((during, -1, 30), (ended, 300, 30), (ended, 100, 0), (ended, -1, 0)):
        mine, used = heights(rows, column)
        scale = len(rows) * FULL / 80
        assert abs(mine - part * scale) <= FULL / 2 and abs(used - (part + 10) * scale) <= FULL / 2
    begun = [[character for character, _ in row].index(START[0]) for row in ended if START[0] in str(row)]
    assert set(begun) == {199}, "the column before the run's first second"
    other = cells(draw(after.history, "lora-2"))
    assert heights(other, 300)[0] == 0, "to another run it is what others used"


def test_the_predicted_peak_is_on_top_of_what_others_use_and_a_band_while_the_run_is_live() -> None:
    history = MemoryHistory()
    for second in range(600):
        own = 20 * GIB if second >= 300 else 0
        history.add(Moment(own + (10 if second < 450 else 30) * GIB, {"ours": own} if own else {}))
    rows = cells(draw(history, band=Band(30 * GIB, 40 * GIB, 50 * GIB), rows=8))
    for column, expected, mark in ((100, 50, EXPECTED), (400, 50, BAND), (500, 70, BAND)):
        marked = [80 - 10 * at for at, row in enumerate(rows) if row[column] == mark]
        assert expected in range(min(marked) - 10, max(marked) + 1) and (len(marked) > 1) == (mark == BAND)
    axis = draw(history)[-1].plain
    assert axis.index("start") == axis.index("└") + 300


def test_the_highest_memory_of_the_run_is_marked_once() -> None:
    history = MemoryHistory()
    for second in range(600):
        own = (12 if second < 100 else 48 if second == 200 else 30) * GIB
        history.add(Moment(own, {"ours": own}))
    rows = cells(draw(history, rows=8))
    assert [(row.index(HIGHEST), at) for at, row in enumerate(rows) if HIGHEST in row] == [(200, 3)]
