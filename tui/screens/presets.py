"""All presets: choose, edit in one's editor, duplicate, save the present choice as a new one, delete one's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Static

from engine.config import preset_library, user_presets
from engine.config.errors import RunFailed, UserError
from engine.config.preset import Effective
from engine.config.preset_library import PresetEntry
from engine.config.schema import Config
from engine.config.text import visible
from tui.charts.columns import Column, Row
from tui.choice import Choice, changes
from tui.commands import bindings
from tui.screens.ask import AskScreen
from tui.screens.base import BaseScreen
from tui.screens.name import NameScreen
from tui.terminal.editing import edit
from tui.widgets.key_line import KeyLine
from tui.widgets.table import Table

if TYPE_CHECKING:
    from tui.app import Workbench

COLUMNS = (
    Column("key", 3),
    Column("preset", 12),
    Column("method", 6),
    Column("whose", 5),
    Column("model", 5),
    Column("data", 4),
    Column("title", 8),
)


class PresetsScreen(BaseScreen[str | None]):
    """Closes with the name of the chosen preset, or with nothing."""

    BINDINGS: ClassVar[list[BindingType]] = bindings("presets")
    CSS = """
    PresetsScreen { layout: vertical; }
    PresetsScreen #title { height: 1; text-style: bold; padding: 0 1; }
    PresetsScreen Table { padding: 0 1; }
    PresetsScreen #detail { height: 8; padding: 0 1;
                            border-top: solid $surface-lighten-2; }
    """

    app: Workbench

    def __init__(self, choice: Choice, effective: Effective | None) -> None:
        super().__init__()
        self.choice, self.effective = choice, effective
        self.listed: dict[str, PresetEntry] = {}

    def compose(self) -> ComposeResult:
        yield Static(Content(visible(f"presets; your own lie in {preset_library.user_folder()}")), id="title")
        yield Table(COLUMNS, id="table")
        yield Static(id="detail")
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.show_presets(self.choice.name)

    def show_presets(self, here: str = "") -> None:
        """The presets as their files are now, the cursor on `here`."""
        self.listed = {listed.name: listed for listed in preset_library.list_presets()}
        self.query_one(Table).show_rows([row(listed) for listed in self.listed.values()], here=here)
        self._detail()

    @on(Table.Moved)
    def _detail(self) -> None:
        """What the preset under the cursor is about and would change, or why it is broken."""
        listed = self._here()
        if listed is not None:
            self.query_one("#detail", Static).update(detail(listed, self.choice, self.effective))

    def _here(self) -> PresetEntry | None:
        return self.listed.get(self.query_one(Table).key)

    def action_back(self) -> None:
        self.dismiss(None)

    @on(Table.Taken)
    def action_choose(self) -> None:
        listed = self._here()
        if listed is None:
            return
        if listed.preset is None:
            self.tell(f"it cannot be used: {listed.error}; e edits it", severity="error", timeout=10)
            return
        self.dismiss(listed.name)

    def action_edit(self) -> None:
        """What ships is copied into the user's folder first, where it hides the shipped one."""
        listed = self._here()
        if listed is None:
            return
        self.app.clear_notifications()
        copy: Path | None = None
        try:
            if not user_presets.is_own(listed):
                copy = user_presets.copy_to_own(listed)
            self.tell(f"edited by {edit(self.app, copy or listed.path)}")
        except UserError as error:
            if copy:  # nobody has seen it: the shipped one shows again
                copy.unlink(missing_ok=True)
                copy = None
            self.tell(error.line, severity="error", timeout=10)
        except RunFailed as error:
            self.tell(str(error), severity="error", timeout=10)
        if copy:
            self.tell(f"{listed.name} ships with ftbench: this is your copy, {copy}", timeout=10)
        self.show_presets(listed.name)  # what is wrong with it now stands below the table

    def action_duplicate(self) -> None:
        listed = self._here()
        if listed is None or listed.preset is None:
            self.tell("a broken preset is not duplicated: e edits it", severity="warning")
            return
        self._make(f"A preset like {listed.name}, called", listed.name, lambda name: _copy(name, listed.name))

    def action_save(self) -> None:
        """Only what differs from the method's defaults is written."""
        chosen, base = self.effective, self.choice.preset
        if chosen is None:
            self.tell("nothing is chosen", severity="warning")
            return
        question = f"Save what is chosen ({self.choice.name}, {chosen.config.method}) as a preset called"
        self._make(question, self.choice.name, lambda name: user_presets.from_choice(name, base, chosen))

    def _make(self, question: str, base: str, write: Callable[[str], Path]) -> None:
        def answered(name: str | None) -> None:
            if name is None:
                return
            try:
                path = write(name)
            except UserError as error:
                self.tell(error.line, severity="error", timeout=10)
                return
            self.tell(f"written: {path}")
            self.show_presets(name)

        self.app.push_screen(NameScreen(question, free_name(base, self.listed), user_presets.check_name), answered)

    def action_delete(self) -> None:
        listed = self._here()
        if listed is None or not user_presets.is_own(listed):
            self.tell("only your own presets can be deleted", severity="warning")
            return

        def answered(yes: bool | None) -> None:
            if not yes:
                return
            try:
                user_presets.delete_own(listed)
            except UserError as error:
                self.tell(error.line, severity="error")
            self.show_presets()

        shows = (preset_library.shipped_folder() / listed.path.name).exists()
        again = " The one that ships shows again." if shows else ""
        self.app.push_screen(AskScreen(f"Delete your preset {listed.path} for good?{again}"), answered)

    def action_config(self) -> None:
        from tui.screens.text import TextScreen, config_text

        listed = self._here()
        try:
            if listed is not None:
                text = config_text(preset_library.effective(listed.name, None, {}))
                self.app.push_screen(TextScreen(f"configuration of {listed.name}", text))
        except UserError as error:
            self.tell(error.line, severity="error", timeout=10)


def row(listed: PresetEntry) -> Row:
    """A line of the table; a broken one stands out."""
    style = "$text-error" if listed.preset is None else ""
    return Row(listed.name, tuple((text, style) for text in cells(listed)))


def cells(listed: PresetEntry) -> list[str]:
    """In the order of COLUMNS."""
    whose = "yours" if user_presets.is_own(listed) else "ships"
    if listed.preset is None:
        return ["!", listed.name, "broken", whose, "", "", "see below"]
    values = listed.preset.values
    given = [str(values.get(key, default)) for key, default in (("model.id", "tiny"), ("data.id", "tickets"))]
    return [
        str(listed.slot or ""),
        listed.name,
        str(values.get("method", Config().method)),
        whose,
        *(Path(name).name if name.startswith("/") else name for name in given),
        str(values.get("title", "")),
    ]


def detail(listed: PresetEntry, choice: Choice, effective: Effective | None) -> Content:
    """About, and what choosing it would change."""
    if listed.preset is None:
        return Content.styled(visible(listed.error), "$text-error")
    about = Content(visible(str(listed.preset.values.get("about", ""))))
    try:
        changed = changes(effective, choice.with_preset(listed.name).effective())
    except UserError as error:
        return Content.styled(visible(error.line), "$text-error")
    text = ", ".join(map(visible, changed)) if changed else "nothing"
    return Content.assemble(about, "\n", ("it would change: ", "$foreground-muted"), text)


def free_name(base: str, taken: dict[str, PresetEntry]) -> str:
    """`base-2`, or the first number that is free."""
    return next(name for number in range(2, 10_000) if (name := f"{base}-{number}") not in taken)


def _copy(name: str, base: str) -> Path:
    return user_presets.from_preset(name, base)
