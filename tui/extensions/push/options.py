"""`ftbench export RUN --push REPO [--public]`: push the artifact to the Hub once it is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from engine.config.text import amount, visible
from engine.runs.rpc_client import ask
from tui.cli.progress import shown_progress
from tui.output.console import say


@dataclass
class Push:
    """An artifact that is worse than its run is pushed only if that is accepted."""

    repository: str
    public: bool

    def prepare(self, progress: Any) -> None:
        """Raises UserError for a repository that cannot be pushed to: before hours of export."""
        progress(f"checking {self.repository} on the Hub")
        self.repository = ask("push.check", {"repository": self.repository, "public": self.public}, progress)

    def finish(self, answer: dict[str, Any], accepted: bool, json: bool) -> None:
        """Push the artifact that `answer` names, and add the result to it."""
        if not accepted:
            if not json:
                say("not pushed: the artifact is worse than the run; --accept-loss pushes it", "red")
            return
        request = {"folder": answer["folder"], "repository": self.repository, "public": self.public}
        with shown_progress(json) as (progress, _):
            pushed = answer["pushed"] = ask("push", request, progress)
        if not json:
            visibility = "private" if pushed["private"] else "public"
            say(f"pushed: {amount(pushed['files'], 'file')} to {visible(pushed['url'])} ({visibility})")
            for note in pushed["notes"]:
                say(f"note: {visible(note)}", "yellow")


def push(
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="Hub repository (OWNER/NAME) to upload it to, private if created."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push, allow a public repository.")] = False,
) -> Push | None:
    """The push that is asked for."""
    return None if push is None else Push(push, public)
