"""`data check` and `data show`: what the engine's own preparation sees and trains."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from engine.contract.ask import ask
from engine.contract.errors import UserError
from engine.contract.library import effective
from engine.contract.preset import Flat
from engine.contract.text import amount, visible
from tui.output.console import console, print_json, say


def check(preset: str, overrides: Flat, json: bool) -> int:
    """0 where nothing is wrong enough to refuse, else 2; problems are listed either way."""
    report = ask("data.check", _arguments(preset, overrides))
    if json:
        print_json(report)
    else:
        for key, value in report.items():
            _print(key, value)
    return 2 if report["refused"] else 0


def show(preset: str, overrides: Flat, rows: int, split: str, json: bool) -> int:
    """Samples with their trained tokens standing out: green and underlined, so that it reads without color too.

    Raises UserError where no row of the split can be shown.
    """
    arguments = _arguments(preset, overrides)
    samples = ask("data.show", {**arguments, "rows": rows, "split": split})
    if not samples:
        raise _nothing_to_show(ask("data.check", arguments), arguments["data"]["id"], split)
    if json:
        print_json(samples)
        return 0
    for sample in samples:
        console.print(Text(visible(f"── {sample['where']} · {len(sample['tokens'])} tokens"), style="bold"))
        line = Text()
        for token in sample["tokens"]:
            text = visible(token["text"]).replace("\\n", "⏎")
            line.append(text, style="green underline" if token["trained"] else "dim" if token["special"] else "")
            line.append("·" if not console.is_terminal and token["trained"] else "")
            if token["text"].endswith("\n"):
                line.append("\n")
        console.print(line, soft_wrap=True)
        trained = "".join(token["text"] for token in sample["tokens"] if token["trained"])
        say(f"   trained: {trained!r}")
    return 0


def _nothing_to_show(report: dict[str, Any], data: str, split: str) -> UserError:
    """How many rows were left out and why; of a split without rows that it has none."""
    kinds = report["dropped"].get(split, {})
    if not kinds:
        having = ", ".join(name for name, count in report["rows"].items() if count) or "none"
        return UserError(f"no {split} rows", data, f"splits with rows: {having}", "data.no_rows")
    lost = sum(found["rows"] for found in kinds.values())
    reasons = "; ".join(f"{found['rows']:,} {kind} (first: {found['where'][0]})" for kind, found in kinds.items())
    what = f"no {split} row can be trained on: {amount(lost, 'row')} refused: {reasons}"
    return UserError(what, data, "`ftbench data check` shows the whole report", "data.all_rows_refused")


def _arguments(preset: str, overrides: Flat) -> dict[str, Any]:
    config = effective(preset, None, overrides).config
    return {
        "model": msgspec.to_builtins(config.model),
        "data": msgspec.to_builtins(config.data),
        "max_length": config.train.max_length,
    }


def _print(key: str, value: Any, indent: int = 0) -> None:
    """A report as an indented list; what is empty is left out."""
    space = "  " * indent
    name = key.replace("_", " ")
    if value in ({}, [], "", None):
        return
    if isinstance(value, dict) and not any(isinstance(item, (dict, list)) for item in value.values()):
        say(f"{space}{name:<20}{'  '.join(f'{inner} {_plain(item)}' for inner, item in value.items())}")
    elif isinstance(value, dict):
        say(f"{space}{name}")
        for inner, item in value.items():
            _print(str(inner), item, indent + 1)
    elif isinstance(value, list) and name == "warnings":
        for item in value:
            say(f"warning: {item['text']} [{item['code']}]", "yellow")
    elif isinstance(value, list):
        say(f"{space}{name:<20}{'; '.join(_place(item) for item in value)}")
    else:
        say(f"{space}{name:<20}{_plain(value)}", "red" if name == "refused" else "")


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _place(item: Any) -> str:
    return " = ".join(map(str, item)) if isinstance(item, list) else str(item)
