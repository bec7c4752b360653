"""Models as rows of a table: size, license, architecture, network, and the predicted memory of each method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.config.method_specs import method_names, method_title
from engine.config.model_list import ListedModel
from engine.config.quantities import size
from engine.memory.formula.memory_budget import MemoryBudget
from tui.charts.columns import Column, TableRow
from tui.format import moment
from tui.keymap import CommandKeys
from tui.preview.method_estimate import STYLES, MethodEstimate, method_estimates
from tui.selection import MARK, Selection

NETWORK = "requires network"


@dataclass(frozen=True)
class ModelRow:
    """A model and what each method would need for it with the present selection."""

    model: ListedModel
    estimates: Sequence[MethodEstimate] = ()


def columns() -> tuple[Column, ...]:
    """The columns of the table; on a narrow terminal the last ones are dropped."""
    methods = (Column(method_title(name), 8, right=True) for name in method_names())
    others = (Column("size", right=True), Column("where"), Column("license"), Column("architecture"), Column("date"))
    return (Column("model", 14), *methods, *others)


def model_row(selection: Selection, model: ListedModel, budget: MemoryBudget | None) -> ModelRow:
    """The model with its estimates; the method of the selection is kept."""
    return ModelRow(model, method_estimates(selection.with_model(model.id), model.files, budget))


def table_row(row: ModelRow, selected: bool) -> TableRow:
    """One line: the selected model is marked, memory has the color of its fit."""
    model = row.model
    name = f"{MARK if selected else ' '}{model.label}"
    memory = [(size(one.peak) if one.peak else "–", STYLES[one.fit]) for one in row.estimates]
    where = NETWORK if model.requires_network else model.origin
    date = moment(model.modified, "%Y-%m-%d") if model.modified else ""
    return TableRow(
        model.id,
        (
            (name, "bold" if selected else ""),
            *memory,
            (size(model.bytes) if model.bytes else "–", ""),
            (where, "$text-warning" if model.requires_network else "$foreground-muted"),
            (model.license or "–", "$foreground-muted"),
            (model.architecture or "–", "$foreground-muted"),
            (date, "$foreground-muted"),
        ),
    )


def detail_lines(row: ModelRow, keys: CommandKeys) -> list[str]:
    """Where the model is and what is known about it; then why a memory is not known."""
    model = row.model
    known = [model.id, model.architecture, model.license and f"license {model.license}", model.about]
    is_own = model.origin == "embedded" or not model.files.folder  # a path within the package says nothing
    where = model.origin if is_own else f"{model.origin}: {model.files.folder}"
    lines = [" · ".join(part for part in known if part), where]
    if model.requires_network:
        key = keys.of("models.pull")
        lines[1] = f"{NETWORK}: {model.files.fetch} on the Hub; press {key} to download it"
        if model.gated:
            page = f"huggingface.co/{model.files.fetch}"
            lines[1] = f"{NETWORK}, gated: accept the license at {page} and set HF_TOKEN, then press {key}"
    if problem := model.files.wrong or next((one.why for one in row.estimates if one.why), ""):
        lines.append(problem)
    return lines
