r"""The map of the rule of thumb: keep the cells of finished sweeps, and print their tables.

    python tools/rule_map.py --keep NAME=SWEEP_DIR ...     keep each finished cell of a sweep
    python tools/rule_map.py                               print the tables of all kept cells

Two tables per name: all cells, and the last one with losses and sizes; in the order of the values, this is the cell
with the most rows and the highest rank. A cell is one line of `tools/rule/NAME.jsonl`. A cell that is measured
again replaces the one with the same values, so a map can be continued on another day or machine.

Intervals are pointwise 95% CIs over test items and seeds. A cost ratio has its lowest and highest value over all pairs
of seeds. *Timings* is the training time of undisturbed runs. `docs/the-rule.md` has the findings on two sweeps:

    ftbench ladder smollm2-lora --data BANKING77 --devices cpu:2 --no-probe --seeds 2 \
      --vary data.max_rows=250,750,2250 --vary adapter.rank=4,16,64 \
      --set 'data.map={prompt="text",completion="category"}' --set data.validation=0.005 --set train.batch=8 \
      --set train.keep_checkpoints=1 --set train.checkpoint_every=1000 --set train.evaluate_every=1000 \
      --set evaluation.max_new_tokens=16 --set evaluation.rows=200
    ftbench ladder smollm2-lora --data WIKISQL --devices cpu:2 --no-probe --seeds 2 --vary data.max_rows=100,300,900 \
      --set 'data.separator="\nA:"' --set train.batch=8 --set train.keep_checkpoints=1 \
      --set train.checkpoint_every=1000 --set train.evaluate_every=1000 --set evaluation.max_new_tokens=48
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.config.quantities import percent, ratio, size
from engine.extensions.sweeps.sweep_dir import SweepDir
from engine.ladder.recommendation import cost_ratios
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.rung_results import CostRatio, RungResult
from engine.runs.run.result import Interval

FOLDER = Path(__file__).with_name("rule")
HEADER = "rung | score | share of full's gain | cost ratio | CPU time in training | peak memory | timings"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="NAME=SWEEP_DIR", action="append", default=[])
    for argument in parser.parse_args().keep:
        name, _, folder = argument.partition("=")
        keep(name, SweepDir(Path(folder).resolve()))
    for file in sorted(FOLDER.glob("*.jsonl")):
        cells = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
        print(f"## {file.stem}", "", *rows(cells), "", *largest(cells[-1]), "", sep="\n")


def keep(name: str, sweep: SweepDir) -> None:
    """Keep the finished cells of a sweep."""
    file = FOLDER / f"{name}.jsonl"
    kept = [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.exists() else []
    state = sweep.state()
    for cell in state.cells if state else ():
        ladder = sweep.ladder(cell.ladder).state()
        if cell.status == "finished" and ladder:
            kept = [record for record in kept if record["values"] != cell.values] + [entry(cell.values, ladder)]
    kept.sort(key=lambda record: list(record["values"].values()))
    file.write_text("".join(json.dumps(record) + "\n" for record in kept), "utf-8")


def entry(values: dict[str, Any], ladder: Ladder) -> dict[str, Any]:
    """What the map keeps of a cell's ladder."""
    costs = cost_ratios(ladder)
    assert ladder.work is not None and ladder.summary is not None
    return {
        "values": values,
        "metric": ladder.work.metric,
        "headline": ladder.summary.headline,
        "versions": ladder.versions,
        "cpu": ladder.machine.get("cpu"),
        "cost": ladder.summary.cost,
        "rungs": [_rung(row, costs.get(row.name)) for row in ladder.rows],
    }


def _rung(row: RungResult, cost: CostRatio | None) -> dict[str, Any]:
    return {
        "rung": row.name,
        "learning_rate": row.learning_rate,
        "score": _interval(row.score),
        "by_seed": row.by_seed,
        "share_of_gain": _interval(row.share_of_gain),
        "no_share": row.no_share,
        "cost": [cost.mean, cost.low, cost.high] if cost else None,
        "cpu_seconds": row.cpu_seconds.mean if row.cpu_seconds else None,
        "training_seconds": row.training_seconds.mean if row.training_seconds else None,
        "peak": row.peak.training if row.peak else None,
        "loss": _interval(row.loss),
        "forgetting": _interval(row.forgetting),
        "artifact": row.artifact_bytes,
        "disturbed": row.disturbed,
    }


def _interval(value: Interval | None) -> list[float | None] | None:
    return [value.mean, value.low, value.high] if value else None


def rows(cells: list[dict[str, Any]]) -> Iterator[str]:
    """The lines of a Markdown table: one per rung of each cell."""
    keys = list(cells[0]["values"])
    yield f"| {' | '.join(keys)} | {HEADER} |"
    yield "|---" * (len(keys) + HEADER.count("|") + 1) + "|"
    for cell in cells:
        full = next(rung_record for rung_record in cell["rungs"] if rung_record["rung"] == "full")
        for rung in cell["rungs"]:
            if rung["rung"].startswith("base"):
                continue
            values = " | ".join(str(cell["values"][key]) for key in keys)
            peak = ratio(rung["peak"] / full["peak"]) if rung["peak"] and full["peak"] else "–"
            yield (
                f"| {values} | {rung['rung']} | {_share(rung['score'])} | {_share(rung['share_of_gain'])} "
                f"| {_cost(rung['cost'])} | {rung['cpu_seconds']:.0f} s | {peak} | {_timings(rung)} |"
            )


def largest(cell: dict[str, Any]) -> Iterator[str]:
    """The lines of a Markdown table: held-out loss, forgetting and sizes of one cell, and the base model's scores."""
    values = ", ".join(f"{key} {value}" for key, value in cell["values"].items())
    yield f"| {values} | score | held-out loss, test rows | forgetting | peak memory | artifact |"
    yield "|---|---|---|---|---|---|"
    for rung in cell["rungs"]:
        sizes = [size(rung[key]) if rung[key] else "" for key in ("peak", "artifact")]
        losses = [_loss(rung["loss"]), _loss(rung["forgetting"])]
        yield f"| {' | '.join([rung['rung'], _share(rung['score']), *losses, *sizes])} |"


def _loss(value: list[float | None] | None) -> str:
    if value is None or value[0] is None:
        return ""
    ends = "" if value[1] is None or value[2] is None else f" [{value[1]:.3f}, {value[2]:.3f}]"
    return f"{value[0]:.3f}{ends}"


def _share(value: list[float] | None) -> str:
    if value is None or value[0] is None:
        return "–"
    return f"{percent(value[0])} [{100 * value[1]:.1f}, {100 * value[2]:.1f}]"


def _cost(value: list[float] | None) -> str:
    return f"{ratio(value[0])} ({ratio(value[1])} – {ratio(value[2])})" if value else "–"


def _timings(rung: dict[str, Any]) -> str:
    return (
        "disturbed" if rung["disturbed"] else f"{rung['training_seconds']:.0f} s" if rung["training_seconds"] else "–"
    )


if __name__ == "__main__":
    main()
