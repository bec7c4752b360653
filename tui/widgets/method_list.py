"""The list of methods: predicted memory, whether it fits, what is trained, and when to use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from engine.config.method_specs import LORA, method_names, method_spec, method_title
from engine.config.quantities import count, size
from engine.config.text import visible
from tui.selection import MARK

if TYPE_CHECKING:  # imported where it is used: the first frame has no estimate
    from tui.preview.method_estimate import MethodEstimate

NARROW = 28
"""Columns below which `does not fit` is abbreviated."""
DETAILED = 9
"""Rows of the list from which each method takes three rows."""


class MethodList(OptionList):
    """One row per method, or three if the list is high enough."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id, compact=True)
        self.estimates: Sequence[MethodEstimate] = ()
        self.selected = LORA.name
        self._shown: object = None

    def show_estimates(self, estimates: Sequence[MethodEstimate], selected: str) -> None:
        """Replace the estimates and highlight the selected method."""
        self.estimates, self.selected = estimates, selected
        from tui.preview.method_estimate import list_label

        if self.border_subtitle != list_label(estimates):  # setting it redraws the complete pane
            self.border_subtitle = list_label(estimates)
        self._fill()

    def on_resize(self) -> None:
        self._fill()

    def _fill(self) -> None:
        if not self.estimates:
            return
        width, detailed = self.content_size.width, self.content_size.height >= DETAILED
        texts = [method_text(one, one.method == self.selected, width, detailed) for one in self.estimates]
        shown = [(text.plain, text.spans) for text in texts]
        if shown == self._shown:
            return  # the budget changes every second, the text seldom
        self._shown = shown
        self.set_options(Option(text, id=one.method) for text, one in zip(texts, self.estimates, strict=True))
        self.highlighted = list(method_names()).index(self.selected)


def method_text(one: MethodEstimate, selected: bool, width: int, detailed: bool) -> Content:
    """`▸LoRA   5.94 GiB fits`, and below it what is trained and when to use it."""
    return Content("\n").join(_lines(one, selected, width, detailed))


def _lines(one: MethodEstimate, selected: bool, width: int, detailed: bool) -> Iterator[Content]:
    from tui.preview.method_estimate import STYLES

    name = f"{MARK if selected else ' '}{method_title(one.method):<5}"
    if one.estimate is None:
        yield Content.assemble((f"{name} ", "bold"), (visible(one.why or "unknown"), "$foreground-muted"))
    else:
        fit = "no fit" if one.fit == "does not fit" and width < NARROW else one.fit
        yield Content.assemble((name, "bold"), f"{size(one.peak):>9} ", (fit, STYLES[one.fit]))
    if detailed:
        trained = f"{count(one.estimate.trainable)}: " if one.estimate else ""
        yield Content.styled(f"  {trained}{method_spec(one.method).trains_summary}", "$foreground-muted")
        yield Content.styled(f"  {method_spec(one.method).use_summary}", "$foreground-muted")
