"""`demo`: the three methods one after another on the embedded model and data, and a table."""

from __future__ import annotations

from pathlib import Path

from engine.contract.result import Result
from engine.contract.schema import METHODS
from tui.progress import Detached, follow
from tui.scores import as_json, show_results
from tui.show import print_json, say
from tui.verbs.run import settled_result, start


def demo(runs: Path, json: bool) -> int:
    """0 when all three finished."""
    results: list[Result] = []
    for method in METHODS:
        run = start(f"demo-{method}", None, {}, runs, now=False, quiet=json)
        try:
            follow(run, quiet=json)
        except Detached:
            say(f"detached; {run.name} goes on by itself, the methods after it were not started")
            return 1
        result = settled_result(run)
        if result is None:
            say(f"{run.name} left no result; see {run.log_file}")
            return 1
        results.append(result)
    if json:
        print_json(as_json(results))
    else:
        metric, rows = results[0].metric, results[0].after.score.rows if results[0].after else 0
        show_results(f"tiny on tickets: {metric} on {rows} test rows, 95 % intervals", results)
        say("One seed: differences smaller than the intervals are not differences.")
        say(f"runs in {runs}")
    return 0 if all(result.status == "finished" for result in results) else 1
