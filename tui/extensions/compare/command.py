"""`compare`: two or more results, item by item, whoever produced them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from engine.config.errors import RunFailed, UserError
from engine.config.files import write_atomically
from engine.config.metric_specs import POINT
from engine.config.quantities import ABSENT
from engine.config.text import visible
from engine.extensions.compare.comparison import ResultComparison
from engine.runs.rpc_client import ask
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import difference_with_bounds, with_bounds
from tui.cli import completion, options
from tui.cli.lookup import find_named
from tui.cli.progress import shown_progress
from tui.output import streams
from tui.output.console import print_json, say, table


def compare(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN|FILE...",
            help="Runs, and files of lm-evaluation-harness, Inspect, PEFT, JSON Lines or CSV. One NAME: seeds.",
            autocompletion=completion.runs,
        ),
    ],
    key: Annotated[
        str | None, typer.Option("--key", metavar="COLUMN", help="What identifies an item (default: guessed, shown).")
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", metavar="COLUMN", help="The score of an item, or METRIC[,FILTER].")
    ] = None,
    group: Annotated[
        str | None, typer.Option("--group", metavar="COLUMN", help="Items with the same value depend on each other.")
    ] = None,
    lower_is_better: Annotated[
        bool, typer.Option("--lower-is-better", help="Of a metric whose direction its name does not show.")
    ] = False,
    margin: options.Margin = 2.0,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE", help="Write the comparison as a page.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the comparison as Markdown.")] = False,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Print results and differences. Raises UserError for results that cannot be compared."""
    if page is not None and page.exists():
        raise UserError("the file exists", visible(str(page)), "choose another name", "compare.page_exists")
    request = {
        "sources": [_source(runs, word) for word in sources],
        "key": key,
        "score": score,
        "group": group,
        "lower_is_better": lower_is_better,
        "margin": margin * POINT,
        "command": shlex.join(["ftbench", *sys.argv[1:]]),
    }
    with shown_progress(json) as (progress, _):
        answer: dict[str, Any] = ask("compare", request, progress)
    if page is not None:
        try:
            write_atomically(page, answer["page"].encode(), overwrite=False)
        except OSError as error:
            raise RunFailed(f"cannot write {visible(str(page))}: {error.strerror}", "compare.cannot_write") from error
    if json:
        print_json(answer["comparison"])
    elif markdown:
        streams.write(answer["markdown"])
    else:
        _show(msgspec.convert(answer["comparison"], ResultComparison))
        if page is not None:
            say(f"page: {page}")


def _source(runs: Path | None, word: str) -> dict[str, str]:
    """Name, and file or run. A word that is a file's path as a whole has no name in it."""
    name, _, place = ("", "", word) if Path(word).is_file() or "=" not in word else word.partition("=")
    path = Path(place)
    if path.is_file():
        return {"name": name, "file": str(path)}
    if path.suffix and not path.is_dir():
        raise UserError("no such file", visible(place), "name a run, or a file with scores", "compare.no_file")
    return {"name": name, "run": str(find_named(runs, place, (RunDir,)).path)}


def _show(compared: ResultComparison) -> None:
    rows = [
        [
            result.name,
            with_bounds(result.score, compared.is_share),
            f"{result.standard_error:.3g}",
            f"{len(result.files)}",
            "; ".join(dict.fromkeys(f"{file.format}: {file.fields}" for file in result.files)),
        ]
        for result in compared.results
    ]
    kind = "paired by item" if compared.paired else "unpaired"
    title = f"{compared.metric}, {compared.items:,} common items, {kind}"
    table(title, ("result", "score [95% CI]", "std. error", "files", "read as"), rows, right=(1, 2, 3))
    pairs = [
        [
            f"{pair.a} − {pair.b}",
            difference_with_bounds(pair.difference, compared.is_share) or ABSENT,
            "< 0.001" if pair.p_adjusted < 0.001 else f"{pair.p_adjusted:.3f}",
        ]
        for pair in compared.comparisons
    ]
    table("", ("pair", "difference [95% CI]", "adjusted p"), pairs, right=(1, 2))
    for sentence in compared.sentences:
        say(sentence)
