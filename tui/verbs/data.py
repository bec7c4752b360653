"""`data check` and `data show`: what the engine's own preparation sees and trains."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from engine.contract.ask import ask
from engine.contract.library import effective
from engine.contract.preset import Flat
from engine.contract.text import visible
from tui.show import console, print_json, say


def check(preset: str, overrides: Flat, json: bool) -> int:
    """0 where nothing is wrong enough to refuse; problems are listed either way."""
    report = ask("data.check", _arguments(preset, overrides))
    if json:
        print_json(report)
        return 0
    for key, value in report.items():
        _print(key, value)
    return 0


def show(preset: str, overrides: Flat, rows: int, split: str, json: bool) -> int:
    """Samples with their trained tokens standing out: green and underlined, so that it reads without colour too."""
    samples = ask("data.show", {**_arguments(preset, overrides), "rows": rows, "split": split})
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


def _arguments(preset: str, overrides: Flat) -> dict[str, Any]:
    config = effective(preset, None, overrides).config
    return {
        "model": msgspec.to_builtins(config.model),
        "data": msgspec.to_builtins(config.data),
        "max_length": config.train.max_length,
    }


def _print(key: str, value: Any, indent: int = 0) -> None:
    space = "  " * indent
    name = key.replace("_", " ")
    if isinstance(value, dict):
        say(f"{space}{name}")
        for inner, item in value.items():
            _print(str(inner), item, indent + 1)
    elif isinstance(value, list):
        for item in value:
            say(f"{space}{name}: {item}")
    elif isinstance(value, float):
        say(f"{space}{name:<24}{value:.4g}")
    else:
        say(f"{space}{name:<24}{value}")
