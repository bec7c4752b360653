"""Every key of the workbench, once: bindings, the line of keys, help and the palette are made from this table.

No key here is one that tmux (ctrl+b) or screen (ctrl+a) takes, none is a function key, and each works over SSH.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from textual.binding import Binding, BindingType
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, key_to_character

TAKEN = ("ctrl+a", "ctrl+b", "ctrl+c", "ctrl+s", "ctrl+q", "ctrl+z")
"""By tmux, screen, the terminal's flow control and job control."""

MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}


class Command(NamedTuple):
    """One thing one can do."""

    id: str
    """What `config.toml` calls it, `bench.start`; stays the same when the key changes."""
    keys: str
    """The default, several parted by commas."""
    action: str
    """The method `action_…` of the screen, or `app.…`."""
    label: str
    """One or two words for the line of keys."""
    help: str
    """A sentence."""
    shown: bool = True
    """In the line of keys; all are in the help."""
    always: bool = False
    """Also while a question stands or something is typed."""

    @property
    def group(self) -> str:
        return self.id.partition(".")[0]

    def binding(self) -> Binding:
        return Binding(
            self.keys, self.action, self.label, self.shown, priority=self.always, tooltip=self.help, id=self.id
        )


EVERYWHERE = (
    Command("app.help", "question_mark", "app.help", "help", "Every key, with what it does."),
    Command("app.palette", "ctrl+p", "app.command_palette", "commands", "Search commands, presets, runs and data."),
    Command("app.theme", "T", "app.next_theme", "theme", "The next colour theme.", shown=False),
    Command("app.redraw", "ctrl+l", "app.redraw", "redraw", "Draw the whole screen anew.", shown=False, always=True),
    Command("app.quit", "q", "app.detach", "detach", "Leave; runs and ladders go on by themselves."),
)

BENCH = (
    *(
        Command(
            f"preset.{slot}", str(slot), f"preset({slot})", "", f"The preset that asked for key {slot}.", shown=False
        )
        for slot in range(1, 10)
    ),
    Command("bench.start", "enter", "start", "start", "Show what will happen, then start the chosen run."),
    Command("bench.stop", "s", "stop", "stop", "Stop the watched run with a checkpoint; asks first."),
    Command("bench.pause", "p", "pause", "pause", "Stop with a checkpoint, for a while: frees the card, u goes on."),
    Command("bench.resume", "u", "resume", "resume", "Go on from the newest whole checkpoint."),
    Command("bench.runs", "r", "runs", "runs", "Past and live runs: attach, compare, delete."),
    Command("bench.ladder", "l", "ladder", "ladder", "The ladder: every method on the same work, and the verdict."),
    Command("bench.climb", "L", "climb", "climb", "Climb a ladder with this preset, model and data.", shown=False),
    Command("bench.data", "d", "data", "data", "To the data sets: take one, look into it, add another."),
    Command("bench.config", "c", "config", "config", "The whole effective configuration, each value with its origin."),
    Command("bench.method", "m", "method", "method", "The next method, whatever the preset says."),
    Command(
        "bench.methods",
        "M",
        "methods",
        "methods",
        "The methods side by side: memory by part, why one or the other.",
        shown=False,
    ),
    Command("bench.presets", "P", "presets", "presets", "All presets: edit, duplicate, save the choice as one."),
    Command(
        "bench.live", "j", "live", "next live", "Watch the next live run, in the order of their turns.", shown=False
    ),
    Command(
        "bench.view", "v", "pane('loss', 'view')", "view", "Loss, learning rate, gradient norm or speed.", shown=False
    ),
    Command(
        "bench.log", "g", "pane('loss', 'log_scale')", "log scale", "Logarithmic loss axis on and off.", shown=False
    ),
    Command("bench.smooth", "w", "pane('loss', 'smooth')", "smooth", "How much the loss is smoothed.", shown=False),
    Command(
        "bench.earlier",
        "b",
        "pane('loss', 'earlier')",
        "behind",
        "An earlier run behind the loss; the next; none.",
        shown=False,
    ),
    Command(
        "bench.filter", "slash", "ask_word('filter')", "filter", "Show only log lines that hold a word.", shown=False
    ),
    Command(
        "bench.find", "f", "ask_word('find')", "find", "Find a word in the log, the newest line first.", shown=False
    ),
    Command("bench.next", "n", "pane('log', 'next')", "next", "The next older line that holds it.", shown=False),
    Command("bench.previous", "N", "pane('log', 'previous')", "previous", "Back to the newer one.", shown=False),
    Command(
        "bench.output",
        "o",
        "pane('log', 'output')",
        "output",
        "The log of events, or what the worker printed.",
        shown=False,
    ),
    Command("bench.copy", "y", "pane('log', 'copy')", "copy", "Copy the log as it is shown (OSC 52).", shown=False),
    Command("bench.save", "Y", "pane('log', 'save')", "save", "Write the log as it is shown into a file.", shown=False),
)

RUNS = (
    Command("runs.back", "escape,r", "back", "back", "Back to the bench."),
    Command("runs.attach", "enter", "attach", "attach", "Show this run on the bench, from its first event on."),
    Command("runs.mark", "space", "mark", "mark", "Mark it for comparing."),
    Command("runs.compare", "c", "compare", "compare", "Compare the marked runs: scores, costs, what differed."),
    Command("runs.stop", "s", "stop", "stop", "Stop it with a checkpoint; asks first."),
    Command("runs.pause", "p", "pause", "pause", "Stop it with a checkpoint, for a while: frees the card."),
    Command("runs.resume", "u", "resume", "resume", "Go on from its newest whole checkpoint."),
    Command("runs.again", "a", "again", "again", "Run its frozen configuration once more."),
    Command("runs.delete", "x", "delete", "delete", "Delete it for good; asks first. A live run is not deleted."),
    Command("runs.sort", "o", "sort", "sort", "Sort by the next column."),
    Command("runs.turn", "O", "turn", "turn", "Sort the other way round."),
    Command("runs.filter", "slash", "filter", "filter", "Show only runs that hold a word."),
)

DATA = (
    Command("data.inspect", "enter", "inspect", "look", "Inspect the highlighted set: rows, tokens, problems."),
    Command("data.take", "space", "take", "take", "Select the highlighted set for training."),
    Command("data.add", "a", "add", "add", "Add a file, a folder or a Hub id."),
    Command("data.forget", "x", "forget", "forget", "Remove a recent set from the list; keeps the file.", shown=False),
    Command("data.back", "escape", "back", "back", "Return to the bench."),
)

INSPECTOR = (
    Command("inspector.back", "escape", "back", "back", "Return to the bench; cancels a running preparation."),
    Command("inspector.take", "enter", "take", "take", "Select this set for training and return."),
    Command("inspector.next", "n,right", "next", "next", "Show the next row."),
    Command("inspector.previous", "p,left", "previous", "prev", "Show the previous row."),
    Command("inspector.split", "s", "split", "split", "Show the next split; the last is rows with a note or a cut."),
    Command("inspector.view", "v", "view", "view", "Switch between rows, report and chat template."),
    Command("inspector.parts", "b", "parts", "parts", "Toggle a bar between tokens."),
)

PICKER = (
    Command("picker.back", "escape", "back", "back", "Return without selecting a set."),
    Command("picker.open", "enter", "open", "open", "Open the folder, or select the file or Hub id."),
    Command("picker.erase", "backspace", "erase", "up", "Delete the last character, or go up a folder."),
    Command("picker.hidden", "ctrl+t", "hidden", "hidden", "Show or hide names that begin with a dot."),
)

PRESETS = (
    Command("presets.back", "escape,P", "back", "back", "Back to the bench."),
    Command("presets.choose", "enter", "choose", "choose", "Choose it."),
    Command("presets.edit", "e", "edit", "edit", "Open it in $VISUAL or $EDITOR; what ships is copied first."),
    Command("presets.duplicate", "d", "duplicate", "duplicate", "Make a preset of your own from it."),
    Command("presets.save", "n", "save", "save choice", "Save what is chosen on the bench as a new preset."),
    Command("presets.delete", "x", "delete", "delete", "Delete your own; asks first."),
    Command("presets.config", "c", "config", "config", "Its whole configuration, each value with its origin."),
)

LADDER = (
    Command("ladder.back", "escape,l", "back", "back", "Back to where you came from."),
    Command("ladder.next", "n", "next", "next", "The next ladder, the newest first."),
    Command("ladder.stop", "s", "stop", "stop", "Stop the ladder and its run with a checkpoint; asks first."),
    Command("ladder.resume", "u", "resume", "resume", "Go on where it was stopped."),
    Command("ladder.report", "o", "report", "report", "Write the page again and show where it is."),
)

TABLES = {
    "app": EVERYWHERE,
    "bench": BENCH,
    "data": DATA,
    "inspector": INSPECTOR,
    "picker": PICKER,
    "presets": PRESETS,
    "runs": RUNS,
    "ladder": LADDER,
}


def bindings(group: str) -> list[BindingType]:
    """The bindings of a screen or of the app."""
    return [command.binding() for command in TABLES[group]]


def key_of(id: str, own: Mapping[str, str]) -> str:
    """How the first key of a command is called on screen, the user's own where he has one."""
    keys = own.get(id) or next(command.keys for command in every() if command.id == id)
    return keys.partition(",")[0].strip().replace("question_mark", "?").replace("slash", "/")


def clashes(own: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the user's own keys: taken by the terminal, or by two commands of one screen."""
    for name, keys in own.items():
        for key in map(str.strip, keys.split(",")):
            if key in TAKEN:
                yield f"keys: {name}: {key} is taken by tmux, screen or the terminal"
            elif not is_key(key):
                yield f"keys: {name}: {key!r} is no key; letters and signs as they are, else enter, f2, ctrl+x"
    for group in TABLES:
        users: dict[str, str] = {}
        for command in (*TABLES[group], *(TABLES["app"] if group != "app" else ())):
            for key in filter(None, map(str.strip, own.get(command.id, command.keys).split(","))):
                other = users.setdefault(key, command.id)
                if other != command.id and {other, command.id} & set(own):
                    yield f"keys: {other} and {command.id} both want {key}"


def is_key(name: str) -> bool:
    """Whether a terminal can send it: one sign, or a name that Textual knows, behind ctrl, shift and the like."""
    *modifiers, key = name.split("+") if len(name) > 1 else [name]
    named = {*(one.value for one in Keys), *KEY_NAME_REPLACEMENTS.values()}
    known = len(key) == 1 or key in named or key_to_character(key) is not None
    return known and set(modifiers) <= MODIFIERS


def every() -> Iterator[Command]:
    """All commands of all screens."""
    for table in TABLES.values():
        yield from table
