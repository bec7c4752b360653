"""The keys of the rating screen, and those of a ladder that start a judge or open that screen."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import msgspec

from tui.command import AddedKey, Command, ScreenKeys

COMMANDS = (
    Command("rate.back", "escape,q", "back", "back", "Stop rating; what was rated is kept."),
    Command("rate.left", "left", "choose('left')", "left", "The left answer is better."),
    Command("rate.right", "right", "choose('right')", "right", "The right answer is better."),
    Command("rate.both_good", "equals_sign", "choose('both_good')", "both good", "Both answers are good."),
    Command("rate.both_bad", "minus", "choose('both_bad')", "both bad", "Both answers are bad."),
    Command("rate.skip", "full_stop", "choose('skip')", "skip", "Do not rate this pair."),
    Command("rate.undo", "backspace", "undo", "undo", "Take back the last rating, and show its pair again."),
    Command("rate.note", "enter", "write_note", "note", "Write a note on this pair; it is stored with the rating."),
)


def rate(screen: Any) -> None:
    """Rate the answers of two rungs, with the user's login as the name of the rater."""
    from engine.extensions.judge.ratings import RatingSession, login  # imported when it is opened
    from tui.extensions.judge.rating import RatingScreen

    if (folder := screen.chosen("rate")) is not None:
        screen.app.push_screen(RatingScreen(RatingSession(folder, [], login(), [])))


def judge(screen: Any) -> None:
    """Ask for a judge, show what it takes, and start it; stop the one that is at work."""
    from engine.extensions.judge.judge_dir import judges, named_judge
    from engine.extensions.judge.preferences import JudgePlan
    from tui.background import BackgroundRequest
    from tui.screens.dialogs import NameScreen

    if (folder := screen.chosen("judge")) is None:
        return
    if running := next((judge for judge in judges(folder) if judge.is_active()), None):

        def stop() -> None:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended before the answer
                if (pid := running.pid()) is not None:
                    os.kill(pid, signal.SIGTERM)

        screen.confirm(f"Stop the judge {running.name}? Its verdicts are kept.", stop)
        return

    def planned(prepared: Any, error: str) -> None:
        if error:
            screen.tell(error, severity="error", timeout=15)
        else:
            offer(screen, folder, prepared)

    def named(text: str | None) -> None:
        if text is not None:
            plan = JudgePlan(judge=named_judge(text, "judge"), rubric="", pairs=[])
            arguments = {"path": str(folder.path), "plan": msgspec.to_builtins(plan)}
            if screen.request is not None:
                screen.request.cancel()
            screen.request = BackgroundRequest(screen, "judge.plan", arguments, planned)

    question = "Judge: http://HOST:PORT/v1#NAME of a served model, or a model on this machine"
    screen.app.push_screen(NameScreen(question, "", lambda text: named_judge(text, "judge")), named)


def offer(screen: Any, folder: Any, prepared: Any) -> None:
    """Ask whether to start a judge with this plan."""
    from engine.extensions.judge.judge_dir import create_judge, expected_lines
    from engine.extensions.judge.preferences import JudgePlan
    from engine.runs import start

    plan = msgspec.convert(prepared["plan"], JudgePlan)
    tokens = prepared["prompt_tokens"], prepared["completion_tokens"]
    lines = expected_lines(plan, prepared["items"], prepared["requests"], prepared["reused"], tokens)

    def start_judge() -> None:
        judge = create_judge(folder, plan)
        start.start_process("engine.extensions.judge", judge.path, judge.log_file)

    screen.confirm("Start the " + "; ".join(lines) + "?", start_judge)


KEYS = ScreenKeys(
    "Rate",
    COMMANDS,
    (
        AddedKey(
            Command("ladder.judge", "J", "", "judge", "Let a model compare the answers of the rungs."),
            judge,
        ),
        AddedKey(
            Command("ladder.rate", "R", "", "rate", "Compare the answers of two rungs yourself, without their names."),
            rate,
        ),
    ),
)
