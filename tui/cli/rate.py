"""`rate`: people compare answers without the names of rungs: on a screen, or on a page that is sent back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.config.text import visible
from engine.runs.ladder.preferences import RatingSummary
from engine.runs.preference.ratings import RatingSession, import_page, open_session, render_page
from engine.runs.rpc_client import ask
from tui.cli.data import shown_progress
from tui.cli.judge import Compared
from tui.history.tables import show_win_rates
from tui.output import streams
from tui.output.console import print_json, say

if TYPE_CHECKING:
    from tui.screens.rating import RatingScreen


@dataclass(frozen=True)
class RateOptions:
    """The options of `ftbench rate`."""

    rater: str
    pairs: Sequence[str]
    page: Path | None
    imported: Sequence[Path]
    json: bool

    @property
    def interactive(self) -> bool:
        """Whether the screen opens: on a terminal, with nothing else to do."""
        return not self.json and self.page is None and not self.imported and streams.is_terminal()


def rate(compared: Compared, options: RateOptions, runs: Path, ascii_only: bool) -> int:
    """Open the screen, write a page or import ratings; then print the result. Returns the exit status."""
    session = open_session(compared.subject, compared.runs, options.rater, options.pairs)
    if options.interactive:
        from tui.cli.bench import open_bench

        def screen() -> RatingScreen:
            from tui.screens.rating import RatingScreen  # Textual is not needed for pages

            return RatingScreen(session)

        status = open_bench(runs, ascii_only, True, opened=screen)
        show(summary(compared, quiet=False))
        return status
    session.own.close()
    if options.page is not None:
        write_page(session, options)
        return 0
    for file in options.imported:
        rater, count = import_page(session.folder, file, session.pairs)
        if not options.json:
            say(f"{visible(str(file))}: {count} ratings of {rater}")
    ratings = summary(compared, options.json)
    if options.json:
        print_json(msgspec.to_builtins(ratings))
    else:
        show(ratings)
    return 0


def write_page(session: RatingSession, options: RateOptions) -> None:
    """Write the page of all pairs. Raises UserError if it exists, RunFailed if it cannot be written."""
    assert options.page is not None
    if options.page.exists():
        raise UserError("the file exists", visible(str(options.page)), "choose another name", "rating.page_exists")
    content = render_page(session.pairs)
    try:
        options.page.write_bytes(content)
    except OSError as error:
        problem = f"cannot write {visible(str(options.page))}: {error.strerror}"
        raise RunFailed(problem, "rating.cannot_write") from error
    if options.json:
        print_json({"page": str(options.page), "pairs": len(session.pairs)})
        return
    say(f"page: {options.page} ({len(session.pairs)} pairs); its ratings come back with --import FILE")


def summary(compared: Compared, quiet: bool) -> RatingSummary:
    """Summarize all ratings, and write the ladder's report again."""
    with shown_progress(quiet) as (progress, _):
        reply = ask("rating.summary", {"path": str(compared.subject.path), "report": True}, progress)
    return msgspec.convert(reply, RatingSummary)


def show(ratings: RatingSummary) -> None:
    """Print win rates and the sentences of the verdict."""
    show_win_rates([pair.win_rate for pair in ratings.pairs])
    for sentence in ratings.sentences or ["no ratings yet"]:
        say(sentence)
