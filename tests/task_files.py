"""Task files of lm-evaluation-harness with their data, as a user writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ANSWERS = {"The sky is": "blue", "Grass is": "green", "Snow is": "white", "Coal is": "black", "Blood is": "red"}
ITEMS = 20


def choice_task(folder: Path, name: str = "colors", **changes: Any) -> Path:
    """A multiple-choice task with ITEMS items; `changes` are keys of the task file, None removes one."""
    _write_items(folder)
    config = {
        **_common(name),
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return _write(folder / f"{name}.yaml", config | changes)


def generation_task(folder: Path, name: str = "spelled", **changes: Any) -> Path:
    """The same items, answered by generated text."""
    _write_items(folder)
    config = {
        **_common(name),
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    return _write(folder / f"{name}.yaml", config | changes)


def _common(name: str) -> dict[str, Any]:
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "items.jsonl"}},
        "test_split": "test",
        "doc_to_text": "{{question}}",
    }


def _write_items(folder: Path) -> None:
    colors = list(ANSWERS.values())
    lines = []
    for number in range(ITEMS):
        question, answer = list(ANSWERS.items())[number % len(ANSWERS)]
        choices = [answer, next(color for color in colors[number % 3 :] if color != answer)]
        choices = choices[:: -1 if number % 2 else 1]
        row = {"question": f"{number}. {question}", "choices": choices, "label": choices.index(answer)}
        lines.append(json.dumps({**row, "answer": answer}))
    (folder / "items.jsonl").write_text("\n".join([*lines, ""]))


def _write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))  # JSON is YAML
    return path
