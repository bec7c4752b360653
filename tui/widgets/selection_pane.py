"""The selection for the next run: preset, model, method and data, each with its list."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, cast

from rich.cells import cell_len
from textual import on
from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_spec, method_title, next_method, reads
from engine.config.quantities import count, rate, size
from engine.config.text import visible
from tui.format import last_part, without_middle
from tui.selection import DATA, MARK, METHOD, Selection, changes
from tui.settings import app_keys, tell
from tui.widgets.data_list import DataList, SelectList
from tui.widgets.text_rows import Rows

if TYPE_CHECKING:  # imported where they are used: the first frame has neither a preset nor an estimate
    from engine.config.preset import EffectiveConfig
    from engine.config.preset_library import PresetEntry
    from engine.config.schema import Config
    from engine.memory.formula.memory_budget import MemoryBudget
    from tui.preview.method_estimate import MethodEstimate


class PresetList(SelectList):
    """`▸2 LoRA · demo`: the presets with their keys; highlights the selected one."""

    letter: ClassVar[str] = "p"

    def fill(self, cursor: str = "") -> None:
        pane, keys = cast(SelectionPane, self.parent), app_keys(self)
        selected, width = pane.selection.name, self.scrollable_content_region.width or 80  # before the first layout
        rows = []
        for entry in pane.listed:
            mark = MARK if entry.name == selected else " "
            if entry.preset is None:
                rows.append((entry.name, Content.styled(visible(f"{mark}! {entry.name}: invalid"), "$text-error")))
                continue
            head = f"{mark}{keys.of_preset(entry.slot) or ' '} "
            title = visible(str(entry.preset.values.get("title") or entry.name))
            text = head + without_middle(title, width - len(head))
            rows.append((entry.name, Content.styled(text, "bold" if entry.name == selected else "")))
        self.show(rows, selected)


NARROW = 28
"""Columns below which `does not fit` is abbreviated."""
DETAILED = 9
"""Rows of the list from which each method takes three rows."""


class MethodList(SelectList):
    """`▸LoRA   5.94 GiB fits` per method; where the list is high enough also what is trained and when to use it, or why
    it is above another one.
    """

    letter: ClassVar[str] = "m"

    def fill(self, cursor: str = "") -> None:
        pane = cast(SelectionPane, self.parent)
        if pane.effective is None or not pane.estimates:
            return
        from tui.preview.method_estimate import STYLES, list_label

        if self.border_subtitle != (label := list_label(pane.estimates)):  # setting it redraws the complete pane
            self.border_subtitle = label
        selected, width = pane.effective.config.method, self.content_size.width
        rows = []
        for predicted in pane.estimates:
            name = f"{MARK if predicted.method == selected else ' '}{method_title(predicted.method):<5}"
            fit = "no fit" if predicted.fit == "does not fit" and width < NARROW else predicted.fit
            lines = [Content.assemble((name, "bold"), f"{size(predicted.peak):>9} ", (fit, STYLES[predicted.fit]))]
            if predicted.estimate is None:
                lines = [Content.assemble((f"{name} ", "bold"), _unknown(predicted))]
            if self.content_size.height >= DETAILED:
                spec = method_spec(predicted.method)
                trained = f"{count(predicted.estimate.trainable)}: " if predicted.estimate else ""
                texts = f"  {trained}{spec.trains_summary}", f"  {predicted.above(pane.estimates) or spec.use_summary}"
                lines += [Content.styled(text, "$foreground-muted") for text in texts]
            rows.append((predicted.method, Content("\n").join(lines)))
        self.show(rows, selected)


def _unknown(predicted: MethodEstimate) -> Content:
    """Why a method has no figures: `refused: qlora does not work for models of type rwkv …`."""
    from tui.preview.method_estimate import STYLES

    refused = "refused: " if predicted.fit == "refused" else ""
    return Content.styled(f"{refused}{visible(predicted.why or 'unknown')}", STYLES[predicted.fit])


class SelectionChanged(Message):
    """Another selection is in effect, or an invalid one was refused."""


class ItemPicked(Message):
    """An item of a list was selected by hand: the focus may return to the bench."""


class NextRun(Rows):
    """The selection while the lists are folded: one line, or one line per method where there is room."""

    BARS = 4
    """Rows from which each method has a bar."""

    pane: SelectionPane | None = None

    def show_selection(self, pane: SelectionPane) -> None:
        self.pane = pane
        width, height = self.content_size
        if pane.effective is None or not width:
            return
        config = pane.effective.config
        model, data = last_part(config.model.id), last_part(config.data.id)
        if height >= self.BARS:  # preset, data, and the settings that are changed most; then the methods
            steps = f"steps {config.train.steps:,}" if config.train.steps else f"epochs {config.train.epochs:g}"
            settings = f"{steps} · lr {rate(config.train.learning_rate)} · batch {config.train.batch}"
            rank = f" · rank {config.adapter.rank}" if reads(config.method, "adapter.rank") else ""
            text = f"{pane.preset_title}   model {model}   data {data}   {settings}{rank}"
            head = Content(visible(text)).truncate(width, ellipsis=True)
            self.show([head, *(_method_bar(predicted, pane, width) for predicted in pane.estimates)])
            return
        # `next  [LoRA] QLoRA Full · Qwen3-8B · tickets · 43.5 GiB fits          preset 9`
        left = Content.styled("next ", "$foreground-muted")
        for name in method_names():
            title, selected = method_title(name), name == config.method
            left = Content.assemble(left, " ", (f"[{title}]" if selected else title, _chosen(selected)))
        left = Content.assemble(left, visible(f" · {model} · {data}"))
        if (predicted := pane.estimate) and predicted.peak:
            from tui.preview.method_estimate import STYLES

            left = Content.assemble(left, f" · {size(predicted.peak)} ", (predicted.fit, STYLES[predicted.fit]))
        gap = width - left.cell_length - cell_len(pane.preset_title)
        right = Content.assemble(" " * gap, (pane.preset_title, "$foreground-muted")) if gap > 1 else Content()
        self.show([left + right])

    def redraw(self) -> None:
        if self.pane is not None:
            self.show_selection(self.pane)


def _method_bar(predicted: MethodEstimate, pane: SelectionPane, width: int) -> Content:
    """`▸LoRA  ████████░░░░┃░░░ 43.5 GiB fits`: the predicted peak on top of what others use."""
    from tui.preview.method_estimate import STYLES
    from tui.widgets.memory_pane import Use, bar

    selected = pane.effective is not None and predicted.method == pane.effective.config.method
    name = f"{MARK if selected else ' '}{method_title(predicted.method):<6}"
    if predicted.peak is None or pane.budget is None:
        return Content.assemble((name, _chosen(selected)), _unknown(predicted))
    used, total = pane.budget.used, pane.budget.total
    room = max(10, min(60, width - 66))
    drawn = bar(Use(total, used + predicted.peak, predicted.peak), room)
    why = f": others hold {size(used)}" if predicted.fit == "does not fit" and predicted.peak <= total else ""
    free = f" {size(predicted.peak):>9} of {size(total - used)} free  "
    above = f"  {text}" if (text := predicted.above(pane.estimates)) else ""
    fit = (predicted.fit + why, STYLES[predicted.fit])
    return Content.assemble((name, _chosen(selected)), drawn, free, fit, (above, "$foreground-muted"))


def _chosen(selected: bool) -> str:
    return "bold $text-primary" if selected else "$foreground-muted"


class SelectionPane(Horizontal):
    """Three lists and the selection they show."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self.selection = Selection()
        self.started = False
        """Whether a first preset has been selected."""
        self.effective: EffectiveConfig | None = None
        self.changed: list[str] = []
        """Settings that differ from the previous selection."""
        self.previous = ""
        """What the previous selection is called."""
        self.budget: MemoryBudget | None = None
        self.longest: Callable[[Config], int | None] = lambda config: None
        """Tokens of the longest row of a configuration, where its data was checked; set by the bench."""
        self.estimates: list[MethodEstimate] = []
        """Predicted memory of each method."""
        self.listed: list[PresetEntry] = []
        """The presets that are listed."""

    @property
    def estimate(self) -> MethodEstimate | None:
        """Of the selected method."""
        method = self.effective.config.method if self.effective else ""
        return next((predicted for predicted in self.estimates if predicted.method == method), None)

    @property
    def preset_title(self) -> str:
        """`preset 9 LoRA · Qwen3-8B, 80 GB`, the key only where it has one."""
        config = self.effective.config if self.effective else None
        listed = (entry for entry in self.listed if entry.name == self.selection.name)
        slot = next((entry.slot for entry in listed if entry.slot), None)
        key = f"{app_keys(self).of_preset(slot)} " if slot else ""
        return f"preset {key}{(config.title if config else '') or self.selection.name}"

    def compose(self) -> ComposeResult:
        for make, name in ((DataList, "data"), (MethodList, "method"), (PresetList, "preset")):
            list_widget = make(id=name)
            list_widget.border_title = name
            yield list_widget.add_class("pane")

    def on_mount(self) -> None:
        self.call_after_refresh(self.select_initial)

    def select_initial(self) -> None:
        """Make the first selection, unless an earlier key press has done so."""
        from engine.config import preset_library

        if self.started:
            return
        self.started = True
        self.select(self.selection)
        if self.effective is None:  # the user's copy of that preset is invalid: start with a valid one
            valid = [listed.name for listed in preset_library.list_presets() if listed.preset]
            self.select(Selection(next(iter(valid), self.selection.preset)))

    def select(self, selection: Selection) -> None:
        """Make another selection; an invalid one leaves the previous in effect."""
        try:
            effective = selection.effective()
        except UserError as error:
            tell(self, error.line, severity="error")
            self.post_message(SelectionChanged())
            return
        self.changed = changes(self.effective, effective, same_preset=selection.preset == self.selection.preset)
        self.previous = ""
        if self.effective:  # what was selected: a preset by its title, unless something was changed on top of it
            before = self.selection
            unchanged = before == Selection(before.preset)
            self.previous = self.effective.config.title or before.name if unchanged else "the previous selection"
        self.selection, self.effective = selection, effective
        self.list_presets()
        self.list_methods()
        self.query_one(DataList).select(effective.config.data)
        self.post_message(SelectionChanged())

    def reload(self) -> None:
        """Read the selected preset again; where its file is gone, return to the default preset."""
        from engine.config import preset_library

        names = [listed.name for listed in preset_library.list_presets()]
        gone = self.selection.preset not in names and not Path(self.selection.preset).is_file()
        previous, changed = self.previous, self.changed
        self.select(self.selection.with_preset(Selection().preset) if gone else self.selection)
        if not self.changed:  # nothing new: the shown comparison stays
            self.previous, self.changed = previous, changed
        self.list_presets()

    def preset_of_slot(self, slot: int) -> str | None:
        """The name of the preset with this slot; a notification if there is none."""
        self.select_initial()
        for listed in self.listed:
            if listed.slot == slot:
                return listed.name
        key = app_keys(self).of("bench.presets")
        tell(self, f"no preset on key {slot}; press {key} and set `slot = {slot}` in one", severity="error")
        return None

    def neighbor_preset(self, direction: int) -> str:
        """The name of the valid preset before (-1) or after (1) the selected one."""
        self.select_initial()
        names = [listed.name for listed in self.listed if listed.preset]
        name = self.selection.name
        at = names.index(name) + direction if name in names else 0
        return names[at % len(names)]

    def presets(self) -> list[PresetEntry]:
        """All presets as their files are now, with the slots that suit this machine."""
        from engine.config import preset_library

        listed = preset_library.list_presets()
        if self.budget is None:
            return listed
        from tui.preview.method_estimate import with_slots

        return with_slots(listed, self.budget)

    def next_method(self) -> None:
        self.select_initial()
        if self.effective is not None:
            self.select(self.selection.with_setting(METHOD, next_method(self.effective.config.method)))

    @property
    def device(self) -> int | str:
        """`hardware.device` of the selection."""
        return self.effective.config.hardware.device if self.effective else "auto"

    def select_data(self, data: str) -> None:
        """Train on this dataset, also with other presets."""
        from tui.data.datasets import NOT_TEXT, is_utf8
        from tui.data.recent import EMBEDDED, remember

        if not is_utf8(data):
            tell(self, NOT_TEXT, severity="error")
            return
        if data not in EMBEDDED:
            try:
                remember(data)
            except OSError as error:
                tell(self, f"cannot save it to the list of recent datasets: {error}", severity="error")
        self.select(self.selection.with_setting(DATA, data))
        preview = self.query_one(DataList).previews.get(data)
        if preview and preview.problems and not preview.suggested:  # else a dialog offers what to do
            tell(self, "; ".join(preview.problems), severity="error")

    def list_methods(self) -> None:
        """Predict the memory of each method with the present selection."""
        if self.effective is not None:
            from engine.config.model_files import find_model
            from tui.preview.method_estimate import method_estimates

            config = self.effective.config
            longest = self.longest(config)
            self.estimates = method_estimates(self.selection, find_model(config.model), self.budget, longest)
            self.query_one(MethodList).fill()

    def list_presets(self) -> None:
        self.listed = self.presets()
        self.query_one(PresetList).fill()

    def set_budget(self, budget: MemoryBudget) -> None:
        """Take the memory that is available; predict again if it has changed."""
        if budget != self.budget:
            self.budget = budget
            self.list_methods()
            self.list_presets()

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        selected = event.option_id or ""
        match event.option_list.id:
            case "data":
                self.select_data(selected)
            case "method":
                self.select(self.selection.with_setting(METHOD, selected))
            case _:
                self.select(self.selection.with_preset(selected))
        self.post_message(ItemPicked())
