"""The keys of the chat screen, and those that open it from the bench, the list of runs and a ladder."""

from __future__ import annotations

from typing import Any

from tui.command import AddedKey, Command, ScreenKeys

COMMANDS = (
    Command(
        "try.back", "escape", "back", "back", "Stop generating; leave the input line; end the session, freeing memory."
    ),
    Command("try.write", "enter", "write('prompt')", "prompt", "Write a prompt; every column answers it."),
    Command("try.next", "j", "item(1)", "next item", "Replay the next test item; different answers come first."),
    Command("try.previous", "k", "item(-1)", "previous", "Replay the previous test item."),
    Command("try.stop", "s", "stop", "stop", "Stop generating; the answers so far are kept."),
    Command("try.clear", "n", "clear", "new", "Start a new conversation."),
    Command("try.right", "right", "column(1)", "columns", "Show the next column."),
    Command("try.left", "left", "column(-1)", "", "Show the previous column.", shown=False),
    Command(
        "try.sampling", "e", "write('sampling')", "settings", "Change temperature, top-p, seed and maximum tokens."
    ),
    Command("try.system", "E", "write('system')", "system", "Change the system prompt; starts a new conversation."),
    Command("try.save", "Y", "save", "save", "Save the conversation as a dataset in the working directory."),
    Command("try.cpu", "D", "cpu", "CPU", "While a run uses the GPU: use the CPU; slow."),
    Command("try.now", "!", "now", "start now", "While waiting: start immediately, even if the device is busy."),
)


def open_session(screen: Any) -> None:
    """Answer prompts with the finished runs that keys of the screen act on."""
    from engine.extensions.chat.chat_client import OpenSession  # when it is opened: the first frame needs the keys only
    from tui.extensions.chat.screen import TryScreen

    if runs := screen.finished_runs("try"):
        screen.app.push_screen(TryScreen(OpenSession(runs=[str(run.path) for run in runs])))


KEYS = ScreenKeys(
    "Try",
    COMMANDS,
    (
        AddedKey(
            Command("bench.try", "t", "", "try", "Answer prompts with the watched run and its base."),
            open_session,
            before="bench.export",
        ),
        AddedKey(
            Command(
                "runs.try", "t", "", "try", "Answer prompts with the marked runs, or with this one, and their base."
            ),
            open_session,
            before="runs.continue",
        ),
        AddedKey(
            Command("ladder.try", "t", "", "try", "Answer prompts with a finished run of each rung and their base."),
            open_session,
            before="ladder.export",
        ),
    ),
    while_typing=("try.back",),
)
