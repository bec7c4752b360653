"""`judge` and `rate`: a model or people compare the answers of a ladder's rungs or of several runs.

People compare without the names of the rungs: on a screen, or on a page that is sent back.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.files import read_small, remove_tree
from engine.config.text import visible
from engine.runs import start
from engine.runs.endpoint import is_endpoint, parse_price
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.preferences import JudgePlan, Judgment, RatingSummary
from engine.runs.preference.answers import PAIR_SEPARATOR
from engine.runs.preference.judge_dir import JudgeDir, create_judge, expected_lines, named_judge, progress_text
from engine.runs.preference.ratings import RatingSession, import_page, render_page
from engine.runs.rpc_client import ask
from engine.runs.run.event_log import last_line
from engine.runs.run.run_dir import RunDir
from tui.cli.data import shown_progress
from tui.cli.errors import show_notices
from tui.cli.lookup import home, run_or_ladder
from tui.cli.progress import progress_display
from tui.history.tables import show_win_rates
from tui.output.console import print_json, say

if TYPE_CHECKING:
    from tui.screens.rating import RatingScreen

POLL_SECONDS = 0.2
STOP_SECONDS = 600.0
"""Time for the judge's process to end after it was asked to."""


@dataclass(frozen=True)
class JudgeOptions:
    """The options of `ftbench judge`."""

    judge: str
    rubric: Path | None
    pairs: Sequence[str]
    items: int | None
    concurrency: int
    answer_tokens: int
    max_tokens: int | None
    price: str | None
    max_cost: float | None
    timeout: float
    device: str | None


@dataclass(frozen=True)
class Compared:
    """What is compared: a ladder, or several runs."""

    subject: LadderDir | RunDir
    """Its directory has the results."""
    runs: list[str]
    """Directories of the runs; empty for a ladder's."""


def compared(runs: Path | None, names: Sequence[str], json: bool) -> Compared:
    """The ladder or runs of a command line; one name is that of a ladder, if one has it, and `last` the latest ladder.

    Raises UserError for a ladder among other names, and for a missing one.
    """
    if len(names) == 1 and any(
        names[0] in ladder.name or names[0] == "last" for ladder in ladder_dir.iterate(home(runs))
    ):
        return Compared(ladder_dir.find(home(runs, json=json), names[0]), [])
    subjects = [run_or_ladder(runs, name, json) for name in names]
    if len(subjects) == 1 and isinstance(subjects[0], LadderDir):
        return Compared(subjects[0], [])
    directories = [folder for folder in subjects if isinstance(folder, RunDir)]
    if len(directories) < len(subjects):
        raise UserError("a ladder is compared alone", hint="name one ladder, or several runs", code="judge.mixed")
    return Compared(directories[0], list(dict.fromkeys(str(run.path) for run in directories)))


def judge(compared: Compared, options: JudgeOptions, detach: bool, json: bool) -> int:
    """Start a judge and follow it. Raises UserError for invalid input, RunFailed if it cannot be started."""
    prepared = prepare(compared, options, json)
    plan = msgspec.convert(prepared["plan"], JudgePlan)
    if not json:
        tokens = prepared["prompt_tokens"], prepared["completion_tokens"]
        for line in expected_lines(plan, prepared["items"], prepared["requests"], prepared["reused"], tokens):
            say(line)
    folder = create_judge(compared.subject, plan)
    process = start.start_process("engine.judge", folder.path, folder.log_file)
    if detach:
        if json:
            print_json({"judgment": folder.name, "path": str(folder.path)})
        else:
            say(f"detached: the judge continues in the background; the same command continues it: {folder.path}")
        return 0
    try:
        state = follow(folder, process, json)
    except KeyboardInterrupt:
        state = stop(folder, process)
    if json:
        print_json(msgspec.to_builtins(state))
    else:
        show(state)
    return 0 if state.status in ("finished", "stopped") else 1


def prepare(compared: Compared, options: JudgeOptions, json: bool) -> dict[str, Any]:
    """The plan with its pairs, and what it takes at most. Raises UserError for invalid input."""
    judge = named_judge(options.judge, "--judge")
    price = parse_price(options.price, "--price")
    if is_endpoint(judge) and options.device is not None:
        do = "remove it: the server decides where its model runs"
        raise UserError("--device with a served judge", hint=do, code="judge.device_of_served")
    if options.max_cost is not None and price is None:
        raise UserError("--max-cost without --price", hint="add --price IN,OUT", code="judge.cost_without_price")
    plan = JudgePlan(
        judge=judge,
        device=options.device or "auto",
        rubric=_rubric(options.rubric),
        runs=compared.runs,
        pairs=[_pair(word) for word in options.pairs],
        items=options.items,
        concurrency=options.concurrency,
        answer_tokens=options.answer_tokens,
        token_limit=options.max_tokens,
        cost_limit=options.max_cost,
        price=price,
        timeout=options.timeout,
        command=shlex.join(["ftbench", *sys.argv[1:]]),
    )
    with shown_progress(json) as (progress, _):
        request = {"path": str(compared.subject.path), "plan": msgspec.to_builtins(plan)}
        reply: dict[str, Any] = ask("judge.plan", request, progress)
    return reply


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
                display.line.show_work(work, state.done, state.requests, progress_text(state))
            time.sleep(POLL_SECONDS)
    return ended(folder, process)


def stop(folder: JudgeDir, process: start.StartedProcess) -> Judgment:
    """Ask the process to stop, and wait. Its verdicts are kept."""
    process.terminate()
    process.wait(STOP_SECONDS)
    return ended(folder, process)


def ended(folder: JudgeDir, process: start.StartedProcess) -> Judgment:
    """The state after the process has ended. Raises UserError if it was refused, RunFailed if it died."""
    state = folder.state()
    if state is None or state.status == "running":
        reason = last_line(folder.log_file) or f"exit status {process.returncode}"
        raise RunFailed(f"the judge's process ended: {reason}; see {folder.log_file}", "judge.died")
    if state.status == "failed" and process.returncode == 2:
        if not state.done:
            remove_tree(folder.path, ignore_errors=True)
        raise UserError(state.reason, code=state.reason_code)
    return state


def show(state: Judgment) -> None:
    """Print win rates, what the judge was measured by, and the sentences of the verdict."""
    if state.status != "finished":
        say(f"{state.status}: {state.reason}; the same command continues it")
    show_win_rates(state.rates)
    for sentence in state.sentences:
        say(sentence)
    say(progress_text(state))


def rate_on_screen(compared: Compared, session: RatingSession, runs: Path, ascii_only: bool) -> int:
    """Open the screen, then print the result. Returns the exit status."""
    from tui.cli.bench import open_bench

    def screen() -> RatingScreen:
        from tui.screens.rating import RatingScreen  # Textual is not needed for pages

        return RatingScreen(session)

    status = open_bench(runs, ascii_only, True, opened=screen)
    _show_ratings(_rating_summary(compared, quiet=False))
    return status


def import_ratings(compared: Compared, session: RatingSession, files: Sequence[Path], json: bool) -> None:
    """Add the ratings of pages, and print the result of all."""
    session.own.close()
    for file in files:
        rater, count = import_page(session.folder, file, session.pairs)
        if not json:
            say(f"{visible(str(file))}: {count} ratings of {rater}")
    ratings = _rating_summary(compared, json)
    if json:
        print_json(msgspec.to_builtins(ratings))
    else:
        _show_ratings(ratings)


def write_page(session: RatingSession, page: Path, json: bool) -> None:
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


def _rating_summary(compared: Compared, quiet: bool) -> RatingSummary:
    """Summarize all ratings, and write the ladder's report again."""
    with shown_progress(quiet) as (progress, _):
        reply = ask("rating.summary", {"path": str(compared.subject.path), "report": True}, progress)
    return msgspec.convert(reply, RatingSummary)


def _show_ratings(ratings: RatingSummary) -> None:
    """Print win rates and the sentences of the verdict."""
    show_win_rates([pair.win_rate for pair in ratings.pairs])
    for sentence in ratings.sentences or ["no ratings yet"]:
        say(sentence)
