"""The table of all key bindings, from which the screens' bindings, the footer, help and the command palette are built;
and the keys that the user assigns in `config.toml` in place of the defaults.

No key is one that tmux (ctrl+b) or screen (ctrl+a) uses or a function key, so that each works over SSH. All screens are
in one file, although it is long, because the same key should mean the same thing everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from textual.binding import Binding, BindingType
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, key_to_character

from engine.config.errors import UserError
from engine.config.hooks import load_all, shipped_hooks
from tui.command import AddedKey, Command, ScreenKeys, added


def moves(up: str, down: str, first: str, last: str, half_up: str = "", half_down: str = "") -> list[BindingType]:
    """The keys that move in a list or text, with its actions. Not in the table: they are the same everywhere."""
    pairs = [("up,k", up), ("down,j", down), ("home,g", first), ("end,G", last)]
    pairs += [("pageup,ctrl+u", half_up), ("pagedown,ctrl+d", half_down)]
    return [Binding(keys, action, action, show=False) for keys, action in pairs if action]


MOVING = (
    ("↑ k, ↓ j", "Move."),
    ("home g, end G", "First, last."),
    ("ctrl+u, ctrl+d", "Half a page up, down."),
    ("tab, shift+tab", "Next, previous pane."),
)
"""What help says about the keys that move."""

EVERYWHERE = (
    *(
        Command(f"preset.{slot}", str(slot), f"app.preset({slot})", "preset", f"Select preset {slot}.", slot == 1)
        for slot in range(1, 10)
    ),
    Command("preset.previous", "[", "app.next_preset(-1)", "", "Select the previous preset.", shown=False),
    Command("preset.next", "]", "app.next_preset(1)", "", "Select the next preset.", shown=False),
    Command("app.palette", "colon,ctrl+p", "app.command_palette", "commands", "Search commands, presets, runs, data."),
    Command("app.help", "question_mark", "app.help", "help", "Show all keys and what they do."),
    Command("app.jump", "ctrl+o", "screen.jump", "jump", "Jump to a pane: then its letter.", shown=False),
    Command("app.theme", "T", "app.next_theme", "theme", "Switch to the next color theme.", shown=False),
    Command("app.redraw", "ctrl+l", "app.redraw", "redraw", "Redraw the screen.", shown=False, always=True),
    Command("app.quit", "q", "app.detach", "detach", "On the bench: detach, runs continue. Elsewhere: back."),
)

BENCH = (
    Command(
        "bench.start", "enter", "start", "start", "Show what a run of the selection will do; then start it.", False
    ),
    Command("bench.new", "n", "new", "new", "Prepare a new run; while searching the log: the next match."),
    Command("bench.stop", "s", "stop", "stop", "Stop the watched run and save a checkpoint; asks first."),
    Command("bench.pause", "p", "pause", "pause", "Pause: save a checkpoint and release the GPU, to resume later."),
    Command("bench.resume", "u", "resume", "resume", "Resume from the latest complete checkpoint."),
    Command("bench.runs", "r", "runs", "runs", "List runs: attach, compare, resume, delete."),
    Command("bench.ladder", "l", "ladder", "ladder", "Show ladders: every method on the same data, and the verdict."),
    Command("bench.run_ladder", "L", "run_ladder", "run ladder", "Run a ladder with this preset, model and data."),
    Command("bench.method", "m", "method", "method", "Switch to the next method, overriding the preset."),
    Command("bench.data", "d", "data", "data", "Go to the datasets: select, inspect, add."),
    Command("bench.models", "i", "models", "model", "Choose the model: size, license, predicted memory; download."),
    Command("bench.config", "e", "config", "settings", "Show every setting and its origin, and edit values in place."),
    Command(
        "bench.device",
        "D",
        "next_device",
        "device",
        "Select the next GPU on which the run fits, else list all devices.",
        listed="devices",
    ),
    Command("bench.presets", "P", "presets", "presets", "List presets: edit, duplicate, save the current selection."),
    Command("bench.charts", "c", "charts", "charts", "Show all curves, several runs and answers of the model."),
    Command("bench.processes", "M", "processes", "machine", "List processes on each GPU, and workers."),
    Command("bench.watch", "w", "watch_next", "watch", "Watch the next active run, in queue order."),
    Command("bench.export", "x", "export", "export", "Export the watched run's model and check the artifact."),
    Command("bench.compare", "C", "compare", "compare", "Mark the watched run, to compare it with others."),
    Command("bench.zoom", "z", "zoom", "zoom", "Show only the pane with the focus, and return."),
    Command(
        "bench.find", "slash", "ask_word('find')", "search", "Search the log for a word, latest line first.", False
    ),
    Command("bench.filter", "f", "ask_word('filter')", "filter", "Show only log lines that contain a word.", False),
    Command("bench.previous", "N", "pane('log', 'previous')", "previous", "While searching: the previous match."),
    Command("bench.clear", "escape", "clear", "clear", "Close the lists, else end the search and the filter."),
    Command(
        "bench.output", "O", "pane('log', 'output')", "output", "Switch between events and the worker's output.", False
    ),
    Command("bench.copy", "y", "pane('log', 'copy')", "copy", "Copy the log to the clipboard (OSC 52).", shown=False),
    Command("bench.save", "Y", "pane('log', 'save')", "save", "Save the log to a file.", shown=False),
)

LAUNCH = (
    Command("launch.open", "enter", "open", "start", "Start what is shown, or edit the value of the marked row."),
    Command("launch.back", "escape,q", "back", "back", "Return to the bench; changed values are kept."),
    Command("launch.now", "!", "now", "start now", "Start the run immediately, even if the GPU is busy."),
    Command("launch.copy", "y", "copy", "copy", "Copy the equivalent command line to the clipboard (OSC 52)."),
    Command("launch.down", "ctrl+d,pagedown", "scroll(10)", "", "Scroll down.", shown=False),
    Command("launch.up", "ctrl+u,pageup", "scroll(-10)", "", "Scroll up.", shown=False),
)

RUNS = (
    Command("runs.back", "escape,q,r", "back", "back", "Return to the bench."),
    Command("runs.attach", "enter", "attach", "attach", "Open the run on the bench, replayed from its first event."),
    Command("runs.mark", "space", "mark", "mark", "Mark or unmark the run for comparison."),
    Command("runs.compare", "C", "compare", "compare", "Compare the marked runs: scores, costs, settings that differ."),
    Command("runs.stop", "s", "stop", "stop", "Stop the run and save a checkpoint; asks first."),
    Command("runs.pause", "p", "pause", "pause", "Pause the run: save a checkpoint and release the GPU."),
    Command("runs.resume", "u", "resume", "resume", "Resume the run from its latest complete checkpoint."),
    Command("runs.again", "n", "again", "new", "Start a new run with the same frozen configuration."),
    Command("runs.continue", "F", "continue_from", "from", "Select this finished run as the start of the next run."),
    Command("runs.export", "x", "export", "export", "Export the run's model and check the artifact."),
    Command("runs.delete", "delete", "delete", "delete", "Delete the run permanently; asks first. Not active runs."),
    Command("runs.sort", ">", "sort", "sort", "Sort by the next column."),
    Command("runs.reverse", "<", "reverse", "reverse", "Reverse the sort order."),
    Command("runs.filter", "f,slash", "filter", "filter", "Show only runs that contain a word."),
)

CONFIG = (
    Command("config.back", "escape,q,e", "back", "back", "Return to the bench; changes are kept in the selection."),
    Command("config.edit", "enter", "edit", "edit", "Edit the value; what it changes is shown as you type."),
    Command("config.default", "delete,backspace", "default", "default", "Restore the preset's value or the default."),
    Command("config.filter", "f,slash", "filter", "filter", "Show only settings that contain a word."),
    Command("config.save", "Y", "save", "save as", "Save the selection with its changes as a preset."),
    Command("config.copy", "y", "copy", "copy", "Copy the equivalent command line to the clipboard (OSC 52)."),
)

MODELS = (
    Command("models.back", "escape,q,i", "back", "back", "Clear the filter, cancel a download, or return."),
    Command("models.select", "enter", "select", "select", "Select the model for the next run."),
    Command("models.type", "a", "type_id", "type id", "Type a Hub id (owner/name), a folder or a .gguf file."),
    Command("models.pull", "Y", "pull", "download", "Download the model; runs download it too, when they start."),
    Command("models.filter", "f,slash", "filter", "filter", "Show only models that contain a word."),
    Command("models.forget", "delete", "forget", "forget", "Remove a recent model from the list; keeps its files."),
)

CHARTS = (
    Command("charts.back", "escape,q,c", "back", "back", "Return to the bench."),
    Command("charts.left", "left,h", "cursor(-1)", "cursor", "Read the values of all charts at an earlier step."),
    Command("charts.right", "right", "cursor(1)", "", "Read the values at a later step.", shown=False),
    Command(
        "charts.far_left", "shift+left,pageup,ctrl+u", "cursor(-10)", "", "Move the cursor ten columns left.", False
    ),
    Command(
        "charts.far_right", "shift+right,pagedown,ctrl+d", "cursor(10)", "", "Move the cursor ten columns right.", False
    ),
    Command("charts.first", "home,g", "first", "", "Move the cursor to the first step.", shown=False),
    Command("charts.latest", "end,G", "latest", "latest", "Show the latest values instead of those at the cursor."),
    Command("charts.earlier", "b", "earlier", "earlier", "Add an earlier run; those on the same data come first."),
    Command("charts.remove", "delete", "remove", "remove", "Remove the earlier runs."),
    Command("charts.log_scale", "a", "log_scale", "log scale", "Toggle logarithmic axes."),
    Command("charts.smooth", "S", "smooth", "smooth", "Change the smoothing of the curves."),
)

PROCESSES = (
    Command("processes.back", "escape,q,M", "back", "back", "Return to the bench."),
    Command("processes.sort", ">", "sort", "sort", "Sort by GPU memory, GPU utilization, CPU or resident memory."),
)

DEVICES = (
    Command("devices.back", "escape,q,D", "back", "back", "Return without a change."),
    Command("devices.select", "enter", "select", "select", "Use this device for the next run."),
)

DATA = (
    Command(
        "data.inspect",
        "enter",
        "screen.inspect_data",
        "inspect",
        "Inspect the highlighted dataset: rows, tokens, problems.",
    ),
    Command("data.select", "space", "select", "select", "Select the highlighted dataset for training."),
    Command("data.add", "a", "screen.add_data", "add", "Add a file, a folder or a Hub id."),
    Command(
        "data.forget", "delete", "forget", "forget", "Remove a recent dataset from the list, not its file.", shown=False
    ),
    Command("data.back", "escape", "screen.focus_log", "back", "Move the focus to the log."),
)

INSPECTOR = (
    Command("inspector.back", "escape,q", "back", "back", "Return to the bench; cancels a running preparation."),
    Command("inspector.select", "enter", "select", "select", "Select this dataset for training and return."),
    Command("inspector.next", "right,down,j", "next", "next", "Show the next row."),
    Command("inspector.previous", "left,up,k", "previous", "prev", "Show the previous row."),
    Command(
        "inspector.split",
        "tab",
        "split",
        "split",
        "Show the next split; the last one shows truncated rows and rows with notes.",
    ),
    Command("inspector.view", "v", "view", "view", "Switch between rows, report and chat template."),
    Command("inspector.parts", "b", "parts", "tokens", "Show or hide token separators."),
)

PRESETS = (
    Command("presets.back", "escape,q,P", "back", "back", "Return to the bench."),
    Command("presets.select", "enter", "select", "select", "Select the preset."),
    Command("presets.edit", "e", "edit", "edit", "Edit in $VISUAL or $EDITOR; a built-in preset is copied first."),
    Command("presets.duplicate", "a", "duplicate", "add copy", "Create your own preset from this one."),
    Command("presets.save", "Y", "save", "save as", "Save the bench's current selection as a new preset."),
    Command("presets.delete", "delete", "delete", "delete", "Delete your own preset; asks first."),
)

LADDER = (
    Command("ladder.back", "escape,q,l", "back", "back", "Return to the previous screen."),
    Command("ladder.next", "w", "next", "next", "Show the next older ladder."),
    Command("ladder.stop", "s", "stop", "stop", "Stop the ladder and its run, saving a checkpoint; asks first."),
    Command("ladder.resume", "u", "resume", "resume", "Resume the stopped ladder."),
    Command("ladder.export", "x", "export", "export", "Export the model of one of the ladder's runs."),
    Command("ladder.open", "enter", "open", "sentences", "Show the sentences completely, or in one line each."),
    Command("ladder.report", "o", "report", "report", "Copy the path of the report and show it."),
)

GROUPS = (
    ("app", "Everywhere", EVERYWHERE),
    ("bench", "Bench", BENCH),
    ("launch", "Launch screen", LAUNCH),
    ("config", "Configuration", CONFIG),
    ("models", "Models", MODELS),
    ("charts", "Chart grid", CHARTS),
    ("processes", "Machine", PROCESSES),
    ("devices", "Devices", DEVICES),
    ("data", "Data list", DATA),
    ("inspector", "Data inspector", INSPECTOR),
    ("presets", "Presets", PRESETS),
    ("runs", "Runs", RUNS),
    ("ladder", "Ladder", LADDER),
)
TABLES = {group: table for group, _, table in GROUPS}
"""First part of a command's id -> the commands of a screen, with those that extensions add."""
TITLES = {group: title for group, title, _ in GROUPS}
"""Headings of the tables in the help screen and in `docs/keys.md`."""
ADDED_KEYS: dict[str, AddedKey] = {}
"""By the id of their command."""
DEFAULT_KEYS: dict[str, str] = {}
"""Command id -> its default keys, in the order of the tables."""
WHILE_TYPING: list[str] = []
"""Commands that work while an input line has the focus, which takes characters as text."""
BOUND: set[str] = set()
"""The tables of screens whose module has been imported: their keys are bound."""


def _add(name: str, extension: ScreenKeys) -> None:
    """Add the keys of an extension to the tables, each in its place, and the table of its own screen."""
    for key in extension.keys:
        group = key.command.id.partition(".")[0]
        ids = [command.id for command in TABLES[group]]
        place = ids.index(key.before) if key.before else len(ids)
        TABLES[group] = (*TABLES[group][:place], added(key.command), *TABLES[group][place:])
        ADDED_KEYS[key.command.id] = key
    TABLES[name], TITLES[name] = extension.commands, extension.title
    WHILE_TYPING.extend(extension.while_typing)
    DEFAULT_KEYS.clear()  # the order is that of the tables
    DEFAULT_KEYS.update((command.id, command.keys) for table in TABLES.values() for command in table)


for _hook in shipped_hooks("ftbench.screens").values():
    _add(_hook.name, _hook.load())


def add_installed() -> None:
    """Add the keys of other packages, after the first frame: their metadata takes 40 ms.

    Raises UserError for one on a screen that is open already, as the bench is, and as `load_all`.
    """
    for hook, extension in load_all("ftbench.screens", "a ScreenKeys", lambda loaded: isinstance(loaded, ScreenKeys)):
        if hook.name in TABLES:
            continue
        groups = {key.command.id.partition(".")[0] for key in extension.keys}
        if late := sorted(group for group in groups if group in BOUND or group not in TABLES):
            problem = f"{hook.name!r} of ftbench.screens adds a key to {late[0]!r}"
            raise UserError(problem, hook.place, "use a screen that the bench opens, as ladder", "extension.late_key")
        _add(hook.name, extension)


def bindings(group: str) -> list[BindingType]:
    BOUND.add(group)
    return [
        Binding(keys, action, label, shown, priority=always, tooltip=text, id=id)
        for id, keys, action, label, text, shown, always, _ in TABLES[group]
    ]


RESERVED_KEYS = ("ctrl+a", "ctrl+b", "ctrl+c", "ctrl+s", "ctrl+q", "ctrl+z")
"""Used by tmux, screen, and the terminal's flow control and job control."""

MODIFIERS = {"ctrl", "shift", "alt", "super", "hyper", "meta"}

PUNCTUATION = {"question_mark": "?", "slash": "/", "backslash": "\\", "colon": ":"}
"""Textual's name of a key -> its character."""

FIRST_PRESET = "preset.1"
"""In the line of keys it stands for all keys of presets."""


class CommandKeys:
    """The key of each command: the user's own, else the default. Sentences that name a key take it from here."""

    def __init__(self, user: Mapping[str, str] | None = None) -> None:
        """`user`: command id -> keys, the table `[keys]` of config.toml."""
        self._user = user or {}

    def of(self, id: str) -> str:
        """Display name of a command's first key."""
        return displayed_key(self.all_of(id).partition(",")[0].strip())

    def all_of(self, id: str) -> str:
        """All keys of a command, separated by commas, with Textual's names."""
        return self._user.get(id) or DEFAULT_KEYS[id]

    def of_preset(self, slot: int | None) -> str:
        """Display name of the key that selects the preset with this slot; '' for a preset without one."""
        return self.of(f"preset.{slot}") if slot else ""

    @property
    def presets(self) -> str:
        """`1-9`; where the user has changed one of these keys, the key of the list of presets."""
        slots = [id for id in DEFAULT_KEYS if id.startswith("preset.") and id[-1].isdigit()]
        if any(self.all_of(id) != DEFAULT_KEYS[id] for id in slots):
            return self.of("bench.presets")
        return f"{self.of(slots[0])}-{self.of(slots[-1])}"


def displayed_key(key: str) -> str:
    """Display name of a key: `?` for Textual's `question_mark`."""
    modifiers, plus, name = key.rpartition("+")
    return f"{modifiers}{plus}{PUNCTUATION.get(name, name)}"


def key_conflicts(user_keys: Mapping[str, str]) -> Iterator[str]:
    """Problems in the user's keys: reserved by the terminal, invalid, text, or bound to two commands of one screen."""
    for name, keys in user_keys.items():
        key_names = [key.strip() for key in keys.split(",")]
        if name in WHILE_TYPING and all(map(is_typed_character, key_names)):
            yield f"keys: {name}: an input line takes {keys} as text; choose a key such as ctrl+x [keys.text]"
        for key in key_names:
            if key in RESERVED_KEYS:
                yield f"keys: {name}: {key} is reserved by tmux, screen or the terminal; choose another [keys.reserved]"
            elif not is_key(key):
                yield f"keys: {name}: invalid key {key!r}; use one character or a name such as ctrl+x [keys.invalid]"
    for group in TABLES:
        command_of: dict[str, str] = {}
        for command in (*TABLES[group], *(TABLES["app"] if group != "app" else ())):
            for key in filter(None, map(str.strip, user_keys.get(command.id, command.keys).split(","))):
                other = command_of.setdefault(key, command.id)
                if other != command.id and {other, command.id} & set(user_keys):
                    yield f"keys: {key} is bound to both {other} and {command.id}; change one of them [keys.conflict]"


def typed_character(key: str) -> str | None:
    """The character that a key types; None for other keys."""
    names = {short: long for long, short in KEY_NAME_REPLACEMENTS.items()}  # `key_to_character` knows the long ones
    return key if len(key) == 1 else key_to_character(names.get(key, key))


def is_typed_character(key: str) -> bool:
    """Whether an input line takes the key as a character."""
    character = typed_character(key)
    return character is not None and character.isprintable()


def is_key(name: str) -> bool:
    """Whether a terminal can send the key: one character, or a key name of Textual, with modifiers such as ctrl."""
    *modifiers, key = name.split("+") if len(name) > 1 else [name]
    names = {*(key.value for key in Keys), *KEY_NAME_REPLACEMENTS.values()}
    return set(modifiers) <= MODIFIERS and (len(key) == 1 or key in names or key_to_character(key) is not None)
