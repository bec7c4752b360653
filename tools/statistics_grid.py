"""Coverage, false findings and power of a ladder's statistics on simulated ladders, by cell of a grid.

    python tools/statistics_grid.py OUT.jsonl [--ladders 1000] [--seconds 3000] [--part 0/2]
    python tools/statistics_grid.py OUT.jsonl --table
    python tools/statistics_grid.py OUT.jsonl --again 25 --ladders 12000
    python tools/statistics_grid.py --gains 500
    python tools/statistics_grid.py --special --ladders 300
    python tools/statistics_grid.py --costs 20000
    python tools/statistics_grid.py --power 200
    python tools/statistics_grid.py --until-decided 200
    python tools/statistics_grid.py --sweeps 100
    python tools/statistics_grid.py --stops 200 [--part 0/2]
    python tools/statistics_grid.py --conditions 2000 [--part 0/2]

Calls the functions that real ladders use, on ladders of `tests/simulated_grid.py`. Every finished cell is one line of
OUT.jsonl and is not measured again, except by `--again`: the cells nearest to a target, whose lines it replaces.
`--gains` prints how often the interval of a gate's gain contains the true gain, for one run's paired items; `--costs`
how often the interval of a cost ratio contains the true one, and its width; `--power` how often the required sample
suffices.
`--special` measures the cells of what the grid assumes not to be.
`--until-decided` prints error rates and mean numbers of runs of ladders that run until their questions are decided,
`--sweeps` how often a sweep of 12 ladders says of one that the rule of thumb holds or fails where neither is true.
`--conditions` prints the same under conditions that the grid leaves out (`tests/simulated_conditions.py`).
`--stops` plays raters who stop when other ratings are said to change nothing, on cells of `tests/simulated_ratings.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from simulated import Truth, simulate
from simulated_conditions import conditions, measure_condition
from simulated_costs import cost_cells, measure_costs
from simulated_grid import (
    ITEMS,
    SEED_STDS,
    SEEDS,
    VARIANTS,
    Cell,
    cells,
    measure,
    measure_power,
    measure_until_decided,
    special_cells,
)
from simulated_ratings import cells as rating_cells
from simulated_ratings import measure_stops, predicted_stop

from engine.evaluation.intervals import bootstrap, paired_interval
from engine.extensions.sweeps import sweep_report
from engine.ladder.decisions import RULE_GAIN_SHARE
from engine.runs.ladder.ladder_state import BASE

UNTIL_DECIDED = [
    *((variant, 300, std, False) for variant in ("threshold", "bimodal t3") for std in SEED_STDS),
    *((variant, 300, std, True) for variant in ("threshold", "bimodal t3") for std in SEED_STDS),
    *(("threshold", items, std, True) for items in (1000, 100) for std in SEED_STDS),
    *(("threshold", 300, stds, False) for stds in ((5.0, 0.5, 0.5), (0.5, 0.5, 5.0), (3.0, 0.5, 0.5))),
]
"""(generator, items, seed SD or that of each rung, effects) of the ladders that stop when decided."""
GAIN_ITEMS = (6, 10, 20, 50, 100, 300)
DISCORDANT = ((0.97, 0.0), (0.9, 0.0), (0.5, 0.0), (0.3, 0.05), (0.1, 0.02), (0.05, 0.05), (0.02, 0.0))
"""Probabilities that only the tuned model, and only the base, is right on an item."""


def key(cell: dict[str, Any]) -> str:
    return json.dumps(cell, sort_keys=True)


def run(out: Path, ladders: int, seconds: float, part: tuple[int, int], special: bool = False) -> None:
    """Measure the cells that OUT does not have yet, until the time is used up."""
    ends = time.monotonic() + seconds
    for number, cell in enumerate(special_cells() if special else cells()):
        if number % part[1] != part[0] or key(json.loads(json.dumps(cell.as_dict()))) in {
            key(r["cell"]) for r in read(out)
        }:
            continue
        if time.monotonic() > ends:
            return
        line = json.dumps(measure(cell, ladders))
        with out.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run_again(out: Path, count: int, ladders: int) -> None:
    """Measure the cells nearest to a target again. The first ladders of a cell are always the same ones."""
    known = {key(json.loads(json.dumps(cell.as_dict()))): cell for cell in cells()}
    records = read(out)
    targets = [record for record in records if key(record["cell"]) in known and has_target(record["cell"])]
    for target in sorted(targets, key=_distance)[:count]:
        measured = measure(known[key(target["cell"])], ladders)
        print(json.dumps(measured), flush=True)
        records[records.index(target)] = json.loads(json.dumps(measured))
        out.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")


def has_target(cell: dict[str, Any]) -> bool:
    """Whether every rung has a seed SD of at most 3 points, or of 5 with two or more seeds."""
    return all(std <= 3 or (std == 5 and seeds > 1) for std, seeds in zip(cell["stds"], cell["seeds"], strict=True))


def _distance(record: dict[str, Any]) -> float:
    """How far a cell is from the nearer target; negative if it misses one."""
    return min(float(record["covered"]) / record["ladders"] - 0.94, 0.05 - float(record["false"]) / record["ladders"])


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text("utf-8").splitlines()] if out.exists() else []


def records_of(out: Path, some: Iterable[Cell]) -> list[dict[str, Any]]:
    """The records of these cells, in the order of the file."""
    keys = {key(json.loads(json.dumps(cell.as_dict()))) for cell in some}
    return [record for record in read(out) if key(record["cell"]) in keys]


def table(records: list[dict[str, Any]], worst: int) -> Iterator[str]:
    """Markdown: the cells with the lowest coverage, then coverage and power of cells with equal seeds."""
    heads = ["generator", "items", "seeds", "seed SD", "effects", "ladders"]
    heads += ["coverage", "false", "−6 found", "equal found", "flagged", "± points"]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for record in sorted(records, key=lambda record: record["covered"] / record["ladders"])[:worst]:
        cell, count = record["cell"], record["ladders"]
        shares = [f"{record[name] / count:.1%}" for name in ("covered", "false", "power", "as_good", "unlike")]
        facts = [cell["variant"], cell["items"], _each(cell["seeds"]), _each(cell["stds"])]
        facts += ["yes" if cell["effects"] else "none", f"{count:,}"]
        yield f"| {' | '.join(map(str, [*facts, *shares, round(100 * record['half_width'], 1)]))} |"
    for title, name in (("Coverage", "covered"), ("False findings", "false"), ("−6 points found", "power")):
        yield f"\n{title} by seed SD\n\n| generator | items | seeds | {' | '.join(f'{std:g}' for std in SEED_STDS)} |"
        yield f"|---|---|---|{'---|' * len(SEED_STDS)}"
        for variant, items, seeds in itertools.product(VARIANTS, ITEMS, SEEDS):
            by_std = {
                record["cell"]["stds"][0]: f"{record[name] / record['ladders']:.1%}"
                for record in records
                if record["cell"]["effects"]
                and (record["cell"]["variant"], record["cell"]["items"]) == (variant, items)
                and record["cell"]["seeds"] == [seeds] * 3
                and len(set(record["cell"]["stds"])) == 1
            }
            if by_std:
                yield f"| {variant} | {items} | {seeds} | {' | '.join(by_std.get(std, '–') for std in SEED_STDS)} |"


def _each(values: list[float]) -> str:
    return "/".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))


def gain_coverage(items: int, better: float, worse: float, samples: int) -> list[float]:
    """Shares in percent: contained by the bootstrap, by `paired_interval`; lower bound of the latter too high."""
    random, true = np.random.default_rng(0), better - worse
    counts = np.zeros(3)
    for _ in range(samples):
        drawn = random.random(items)
        values = np.where(drawn < better, 1.0, np.where(drawn < better + worse, -1.0, 0.0)).tolist()
        intervals = (bootstrap(values), paired_interval(values, (0.0, 1.0)))
        ends = [(interval.low or 0.0, interval.high or 0.0) for interval in intervals]
        counts += [*(low <= true <= high for low, high in ends), ends[1][0] > true]
    return [100 * float(count) / samples for count in counts]


def print_gains(samples: int) -> None:
    print("| items | P(+1) | P(-1) | bootstrap covers, % | paired_interval covers, % | its lower bound above, % |")
    print("|---|---|---|---|---|---|")
    for items, (better, worse) in itertools.product(GAIN_ITEMS, DISCORDANT):
        shares = gain_coverage(items, better, worse, samples)
        print(f"| {items} | {better} | {worse} | {' | '.join(f'{value:.1f}' for value in shares)} |", flush=True)


def print_special(records: list[dict[str, Any]]) -> None:
    print("| cell | ladders | coverage, % | false findings, % | standard error | ± points |\n|---|---|---|---|---|---|")
    for record in records:
        cell, count = dict(record["cell"]), record["ladders"]
        false, covered = 100 * record["false"] / count, 100 * record["covered"] / count
        error = 100 * math.sqrt(max(record["false"], 1) * (count - record["false"]) / count) / count
        facts = f"{cell['items']} items, {_each(cell['seeds'])} seeds, SD {_each(cell['stds'])}"
        facts += "" if cell["effects"] else ", no effects"
        if size := cell.get("group"):
            facts += f", groups of {size}{'' if cell.get('grouped', True) else ' that are not known'}"
        facts += ", one diverged seed" if cell.get("diverged") else ""
        print(f"| {facts} | {count} | {covered:.1f} | {false:.1f} | {error:.1f} | {100 * record['half_width']:.1f} |")


def print_costs(samples: int) -> None:
    """*Width*: median factor between the ends of the interval and the ratio."""
    print("| seeds | noise | one timing in 10 disturbed | coverage, % | width | ratio 0.08 shown, % |")
    print("|---|---|---|---|---|---|")
    for cell in cost_cells():
        covered, factor, shown = measure_costs(cell, samples)
        facts = [_each([*cell.seeds]), "/".join(f"{noise:.0%}" for noise in dict.fromkeys(cell.noise))]
        facts += ["yes" if cell.disturbed else "", f"{100 * covered:.1f}", f"{factor:.2f}", f"{100 * shown:.0f}"]
        print(f"| {' | '.join(facts)} |", flush=True)


def print_power(ladders: int) -> None:
    print("| pilot items | seeds | seed SD | difference | measured on | power, % |\n|---|---|---|---|---|---|")
    for items, seeds, std in ((300, 3, 0.015), (300, 3, 0.005), (1000, 2, 0.015)):
        count, power = measure_power(items, seeds, 100 * std, 0.06, ladders)
        print(f"| {items} | {seeds} | {100 * std:g} | 6 | {count} | {100 * power:.1f} |", flush=True)


def print_until_decided(ladders: int, most: int) -> None:
    """One row per cell; *of the fixed*: mean seeds until decided, divided by those of a fixed design of equal power."""
    heads = ["generator", "items", "seed SD", "effects", "false", "looking at 5%", "false share", "−6 found"]
    heads += ["fixed", "seeds", "of the fixed", "runs", f"of {3 * most}"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for variant, items, std, effects in UNTIL_DECIDED:
        cell = Cell(variant, items, (most,) * 3, std if isinstance(std, tuple) else (std,) * 3, effects)
        totals = measure_until_decided(cell, ladders)
        shares = [f"{totals[name] / ladders:.1%}" for name in ("false", "naive", "false_share", "power")]
        fixed = np.maximum.accumulate([count / ladders for count in totals["fixed"]])
        power, seeds, runs = totals["power"] / ladders, totals["seeds"] / ladders, totals["runs"] / ladders
        equal = max(2.0, float(np.interp(power, fixed, np.arange(most - len(fixed) + 1, most + 1))))
        facts = [cell.variant, cell.items, _each([*cell.stds]), "yes" if cell.effects else "none", *shares]
        facts += [f"{fixed[-1]:.1%}", f"{seeds:.1f}", f"{seeds / equal:.2f}" if cell.effects else "–"]
        print(f"| {' | '.join(map(str, [*facts, f'{runs:.1f}', f'{runs / 3 / most:.2f}']))} |", flush=True)


def print_stops(raters: int, part: tuple[int, int]) -> None:
    """One row per cell; *before*: with items by disagreement and a normal prediction."""
    heads = ["items", "win rate", "ties", "disagreement", "group", "stops", "overturned, %", "coverage, %", "ratings"]
    print(f"| {' | '.join([*heads, 'before: overturned, %', 'ratings'])} |\n|{'---|' * (len(heads) + 2)}")
    for cell in [*rating_cells()][part[0] :: part[1]]:
        measured, before = measure_stops(cell, raters), measure_stops(cell, raters, predicted_stop)
        stops = max(1.0, measured["stops"])
        figures = [f"{measured['stops']:.0f}"]
        figures += [f"{100 * measured[name] / stops:.1f}" for name in ("overturned", "covered")]
        figures += [f"{measured['ratings']:.0f}", f"{100 * before['overturned'] / max(1.0, before['stops']):.1f}"]
        print(f"| {' | '.join(map(str, [*cell, *figures, round(before['ratings'])]))} |", flush=True)


def print_conditions(ladders: int, part: tuple[int, int]) -> None:
    """One row per cell; of scores, the rung whose interval covers least."""
    heads = {name: f"{name}, %" for name in ("coverage", "base", "score", "share", "false", "as good", "power")}
    print(f"| condition | {' | '.join(heads.values())} |\n|---|{'---|' * len(heads)}", flush=True)
    for condition in [*conditions()][part[0] :: part[1]]:
        shares = measure_condition(condition, ladders)
        figures = [f"{100 * shares[name]:.1f}" if name in shares else "" for name in heads]
        print(f"| {condition.name} | {' | '.join(figures)} |", flush=True)


def print_sweeps(count: int, cells: int = 12) -> None:
    """Sweeps over ladders in which QLoRA keeps exactly 94% of full's gain: no ladder holds or fails the rule."""
    truth = at_the_rule(Truth({BASE: -2.0, "qlora": 0.5, "lora": 0.5, "full": 0.5}))
    alone, adjusted = 0, 0
    for sweep in range(count):
        ladders = [simulate(truth, 10_000 + sweep * cells + number)[0] for number in range(cells)]
        points = [point for number, ladder in enumerate(ladders) for point in sweep_report._points(number, ladder)]
        points = [point for point in points if point.rung == "qlora"]
        alone += any(point.quality in ("holds", "fails") for point in points)
        sweep_report._adjust(points)
        adjusted += any(point.quality in ("holds", "fails") for point in points)
    print(f"| sweeps of {cells} | each ladder alone, % | adjusted, % |\n|---|---|---|")
    print(f"| {count} | {100 * alone / count:.1f} | {100 * adjusted / count:.1f} |")


def at_the_rule(truth: Truth) -> Truth:
    """The same with the log-odds at which QLoRA's share of full's gain is that of the rule of thumb."""
    base, full = truth.rate(BASE), truth.rate("full")
    low, high = truth.odds[BASE], truth.odds["full"]
    for _ in range(30):
        middle = (low + high) / 2
        share = (replace(truth, odds=truth.odds | {"qlora": middle}).rate("qlora") - base) / (full - base)
        low, high = (middle, high) if share < RULE_GAIN_SHARE else (low, middle)
    return replace(truth, odds=truth.odds | {"qlora": low})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, nargs="?", default=Path(__file__).parent / "statistics_cells.jsonl")
    parser.add_argument("--ladders", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--part", default="0/1", help="0/2 and 1/2 share the cells between two processes")
    parser.add_argument("--table", action="store_true", help="print the results")
    parser.add_argument("--worst", type=int, default=20, help="cells in the first table")
    parser.add_argument("--again", type=int, metavar="N", help="measure the N cells nearest to a target again")
    parser.add_argument("--gains", type=int, metavar="SAMPLES", help="coverage of a gate's gain")
    parser.add_argument("--special", action="store_true", help="measure the special cells, and print them")
    parser.add_argument("--costs", type=int, metavar="SAMPLES", help="coverage and width of cost ratios")
    parser.add_argument("--power", type=int, metavar="LADDERS", help="power at the required sample")
    parser.add_argument("--until-decided", type=int, metavar="LADDERS", help="ladders that stop when decided")
    parser.add_argument("--max-seeds", type=int, default=8)
    parser.add_argument("--stops", type=int, metavar="RATERS", help="raters who stop when nothing would change")
    parser.add_argument("--sweeps", type=int, metavar="SWEEPS", help="sweeps of 12 ladders at the rule's boundary")
    parser.add_argument("--conditions", type=int, metavar="LADDERS", help="conditions that the grid leaves out")
    given = parser.parse_args()
    number, _, parts = given.part.partition("/")
    if given.conditions:
        print_conditions(given.conditions, (int(number), int(parts)))
        return
    if given.stops:
        print_stops(given.stops, (int(number), int(parts)))
        return
    if given.sweeps:
        print_sweeps(given.sweeps)
        return
    if given.until_decided:
        print_until_decided(given.until_decided, given.max_seeds)
        return
    if given.costs:
        print_costs(given.costs)
        return
    if given.power:
        print_power(given.power)
        return
    if given.gains:
        print_gains(given.gains)
        return
    if given.again:
        run_again(given.out, given.again, given.ladders)
        return
    if given.table:
        print("\n".join(table(records_of(given.out, cells()), given.worst)))
        return
    run(given.out, given.ladders, given.seconds, (int(number), int(parts)), given.special)
    if given.special:
        print_special(records_of(given.out, special_cells()))


if __name__ == "__main__":
    main()
