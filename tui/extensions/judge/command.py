"""`judge` and `rate`: a model or people compare the answers of a ladder's rungs or of several runs.

People compare without the names of the rungs: on a screen, or on a page that is sent back.
"""

from __future__ import annotations

import contextlib
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.files import open_regular, read_small, remove_tree
from engine.config.quantities import ABSENT, percent
from engine.config.text import visible
from engine.extensions.judge.judge_dir import JudgeDir, create_judge, expected_lines, named_judge, progress_text
from engine.extensions.judge.pairs import PAIR_SEPARATOR
from engine.extensions.judge.preferences import JudgePlan, Judgment, RatingSummary, WinRate
from engine.extensions.judge.ratings import RatingSession, import_page, login, render_page
from engine.runs import start
from engine.runs.endpoint import is_endpoint, parse_price
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.rpc_client import ask, exit_reason
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import percent_bounds
from tui.cli import options
from tui.cli.errors import show_notices
from tui.cli.lookup import RUN_OR_LADDER, find_named, matches_any
from tui.cli.progress import progress_display, shown_progress
from tui.output import streams
from tui.output.console import print_json, say, table

if TYPE_CHECKING:
    from tui.extensions.judge.rating import RatingScreen

POLL_SECONDS = 0.2
STOP_SECONDS = 600.0
"""Time for the judge's process to end after it was asked to."""


def compared(runs: Path | None, names: Sequence[str]) -> tuple[LadderDir | RunDir, list[str]]:
    """What is compared: the directory that has the results, and the runs' directories (none for a ladder).

    A single name is looked for among the ladders first; `last` is the latest ladder. Raises UserError for a ladder
    among other names, and for a name that is not found.
    """
    folder = runs_home(runs)
    if len(names) == 1 and matches_any(LadderDir.iterate(folder), names[0]):
        return LadderDir.find(folder, names[0]), []
    subjects = [find_named(runs, name, RUN_OR_LADDER) for name in names]
    if len(subjects) == 1 and isinstance(subjects[0], LadderDir):
        return subjects[0], []
    directories = [run for run in subjects if isinstance(run, RunDir)]
    if len(directories) < len(subjects):
        raise UserError("a ladder is compared alone", hint="name one ladder, or several runs", code="judge.mixed")
    return directories[0], list(dict.fromkeys(str(run.path) for run in directories))


def judge(
    names: options.Compared,
    model: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="Model of a server, as http://localhost:8000/v1#NAME; or on this machine: name, folder or Hub id.",
        ),
    ],
    rubric: Annotated[
        Path | None, typer.Option("--rubric", metavar="FILE", help="What makes an answer better (default: built in).")
    ] = None,
    pairs: options.Pairs = None,
    items: Annotated[
        int | None, typer.Option("--items", min=1, metavar="N", help="Compare at most N test items (default: all).")
    ] = None,
    concurrency: Annotated[
        int,
        typer.Option(
            "--concurrency",
            min=1,
            max=256,
            help="Requests at a time; the batch size of a model on this machine.",
        ),
    ] = 8,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=8, help="Maximum tokens of a verdict with its reasons.")
    ] = 512,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Stop at this number of tokens in total.")
    ] = None,
    price: options.Price = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", min=0, help="Stop at this cost, by --price.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds of one attempt of a request.")] = 120,
    patience: Annotated[
        float, typer.Option("--patience", min=0, help="Seconds to repeat requests while the server answers none.")
    ] = 600,
    device: options.Device = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> int:
    """Start a judge and follow it. Raises UserError for invalid input, RunFailed if it cannot be started."""
    subject, directories = compared(runs, names)
    judge_model, token_price = named_judge(model, "--judge"), parse_price(price, "--price")
    if is_endpoint(judge_model) and device is not None:
        hint = "remove it: the server decides where its model runs"
        raise UserError("--device with a served judge", hint=hint, code="judge.device_of_served")
    if max_cost is not None and token_price is None:
        raise UserError("--max-cost without --price", hint="add --price IN,OUT", code="judge.cost_without_price")
    plan = JudgePlan(
        judge=judge_model,
        device=device or "auto",
        rubric=_rubric(rubric),
        runs=directories,
        pairs=[_pair(word) for word in pairs or []],
        items=items,
        concurrency=concurrency,
        answer_tokens=answer_tokens,
        token_limit=max_tokens,
        cost_limit=max_cost,
        price=token_price,
        timeout=timeout,
        patience=patience,
        command=shlex.join(["ftbench", *sys.argv[1:]]),
    )
    with shown_progress(json) as (progress, _):  # the plan with its pairs, and what it takes at most
        request = {"path": str(subject.path), "plan": msgspec.to_builtins(plan)}
        prepared: dict[str, Any] = ask("judge.plan", request, progress)
    plan = msgspec.convert(prepared["plan"], JudgePlan)
    if not json:
        tokens = prepared["prompt_tokens"], prepared["completion_tokens"]
        for line in expected_lines(plan, prepared["items"], prepared["requests"], prepared["reused"], tokens):
            say(line)
    folder = create_judge(subject, plan)
    process = start.start_process("engine.extensions.judge", folder.path, folder.log_file)
    if detach:
        if json:
            print_json({"judgment": folder.name, "path": str(folder.path)})
        else:
            say(f"detached: the judge continues in the background; the same command continues it: {folder.path}")
        return 0
    try:
        state = follow(folder, process, json)
    except KeyboardInterrupt:
        state = stopped(folder, process)
    if json:
        print_json(msgspec.to_builtins(state))
    else:
        if state.status != "finished":
            say(f"{state.status}: {state.reason}; the same command continues it")
        show_win_rates(state.rates)
        for sentence in state.sentences:
            say(sentence)
        say(progress_text(state))
    return 0 if state.status in ("finished", "stopped") else 1


def _pair(word: str) -> tuple[str, str]:
    names = [name.strip() for name in word.split(PAIR_SEPARATOR)]
    if len(names) != 2:
        raise UserError(f"not two rungs: {word!r}", "--pair", "use two names, as lora,base", "judge.unknown_rung")
    return names[0], names[1]


def _rubric(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        text = read_small(file).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        hint = "name a text file in UTF-8"
        raise UserError(f"cannot read the rubric ({error})", visible(str(file)), hint, "judge.rubric") from error
    if not text:
        raise UserError("the rubric is empty", visible(str(file)), "write what makes an answer better", "judge.rubric")
    return text


def follow(folder: JudgeDir, process: start.StartedProcess, json: bool) -> Judgment:
    """Show the progress until the process ends. Raises UserError and RunFailed if it ends without a result."""
    told = ""
    with progress_display(json) as display:
        while process.poll() is None:
            state = folder.state()
            if not display and state is not None and state.note not in ("", told):
                told = state.note
                show_notices([Notice("judge.waiting", told)], json)
            if display and state is not None and state.requests:
                work = state.note or "judging"
                display.show_work(work, state.done, state.requests, progress_text(state))
            time.sleep(POLL_SECONDS)
    return ended(folder, process)


def stopped(folder: JudgeDir, process: start.StartedProcess) -> Judgment:
    """Stop the process; its verdicts are kept. Raises RunFailed after STOP_SECONDS, and as `ended`."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired as error:
        text = f"the judge has not ended {STOP_SECONDS:.0f} s after the stop request, which it will still follow"
        raise RunFailed(f"{text}; see {folder.log_file}", "judge.stop_timeout") from error
    return ended(folder, process)


def ended(folder: JudgeDir, process: start.StartedProcess) -> Judgment:
    """The state after the process has ended. Raises UserError if it was refused, RunFailed if it died."""
    state = folder.state()
    if state is None or state.status == "running":
        reason = f"exit status {process.returncode}"
        with contextlib.suppress(OSError), open_regular(folder.log_file) as log:
            reason = exit_reason(process.returncode, log)
        raise RunFailed(f"the judge's process ended: {reason}; see {folder.log_file}", "judge.died")
    if state.status == "failed" and process.returncode == 2:
        if not state.done:
            remove_tree(folder.path, ignore_errors=True)
        raise UserError(state.reason, code=state.reason_code)
    return state


def rate(
    names: options.Compared,
    rater: Annotated[
        str | None, typer.Option("--rater", metavar="NAME", help="Who rates (default: your login).")
    ] = None,
    pairs: options.Pairs = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a page to rate in a browser elsewhere.")
    ] = None,
    imported: Annotated[
        list[Path] | None, typer.Option("--import", metavar="FILE", help="Add the ratings of a page; repeatable.")
    ] = None,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> int:
    """Rate on a screen, write a page to rate elsewhere, or add the ratings of pages; print the result of all."""
    subject, directories = compared(runs, names)
    session = RatingSession(subject, directories, rater or login(), pairs or [])
    if page is not None:
        _write_page(session, page, json)
        return 0
    status = 0
    if json or imported or not streams.is_terminal():
        session.own.close()
        for file in imported or []:
            name, count = import_page(session.folder, file, session.pairs)
            if not json:
                say(f"{visible(str(file))}: {count} ratings of {name}")
    else:
        from tui.cli.bench import open_bench

        def screen() -> RatingScreen:
            from tui.extensions.judge.rating import RatingScreen  # Textual is not needed for pages

            return RatingScreen(session)

        status = open_bench(runs_home(runs), ascii_only, True, opened=screen)
    with shown_progress(json) as (progress, _):  # this writes the ladder's report again
        reply = ask("rating.summary", {"path": str(subject.path), "report": True}, progress)
    ratings = msgspec.convert(reply, RatingSummary)
    if json:
        print_json(msgspec.to_builtins(ratings))
        return status
    show_win_rates([pair.win_rate for pair in ratings.pairs])
    for sentence in ratings.sentences or ["no ratings yet"]:
        say(sentence)
    return status


def show_win_rates(rates: Sequence[WinRate]) -> None:
    """Print one row per pair of rungs: how often the first one's answers are preferred."""
    rows = [
        [
            f"{rate.a} against {rate.b}",
            percent(rate.rate.mean),
            percent_bounds(rate.rate) or ABSENT,
            f"{percent(rate.wins)} / {percent(rate.ties)} / {percent(rate.losses)}",
            f"{rate.rate.rows:,} × {rate.seeds}",
            {"better": "preferred", "worse": "not preferred"}.get(rate.finding, "undecided"),
        ]
        for rate in rates
    ]
    if rows:
        heads = ("pair", "win rate", "95% CI", "win / tie / loss", "items × seeds", "finding")
        table("", heads, rows, right=(1, 2, 3, 4))


def _write_page(session: RatingSession, page: Path, json: bool) -> None:
    """Write the page of all pairs. Raises UserError if it exists, RunFailed if it cannot be written."""
    session.own.close()
    if page.exists():
        raise UserError("the file exists", visible(str(page)), "choose another name", "rating.page_exists")
    content = render_page(session.pairs)
    try:
        page.write_bytes(content)
    except OSError as error:
        raise RunFailed(f"cannot write {visible(str(page))}: {error.strerror}", "rating.cannot_write") from error
    if json:
        print_json({"page": str(page), "pairs": len(session.pairs)})
    else:
        say(f"page: {page} ({len(session.pairs)} pairs); its ratings come back with --import FILE")
