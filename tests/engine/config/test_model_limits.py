"""A model with an impossible config.json is refused before anything is loaded or created."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import ftbench

from engine.assets import tiny_folder
from engine.config.catalog import CATALOG
from engine.config.model_config import LIMITS, impossible_value

TINY = json.loads((tiny_folder() / "config.json").read_text())
BAD: list[tuple[str, Any]] = [
    ("num_hidden_layers", 10**5),
    ("num_hidden_layers", 0),
    ("num_hidden_layers", -3),
    ("num_hidden_layers", 2.5),
    ("num_hidden_layers", "4"),
    ("num_hidden_layers", True),
    ("num_attention_heads", 0),
    ("num_key_value_heads", 0),
    ("hidden_size", 10**12),
    ("vocab_size", 10**30),
    ("intermediate_size", [64, 0]),
    ("head_dim", 0),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_impossible_values_are_named(key: str, value: Any) -> None:
    assert impossible_value({**TINY, key: value}).startswith(f"{key} is ")
    assert impossible_value({"text_config": {**TINY, key: value}}).startswith(f"text_config.{key} is ")


def test_plausible_values_can_be_too_large_together() -> None:
    assert "parameters" in impossible_value({**TINY, "num_hidden_layers": 4000, "hidden_size": 1 << 19})


def test_existing_models_are_possible() -> None:
    assert not impossible_value(TINY) and not impossible_value({}) and not impossible_value({"num_hidden_layers": None})
    assert not [entry.hub for entry in CATALOG.values() if entry.shape and impossible_value(entry.shape)]
    largest = {"num_hidden_layers": 126, "num_attention_heads": 128, "hidden_size": 16384, "vocab_size": 128256}
    assert not impossible_value(largest)


@pytest.mark.parametrize("names", LIMITS)
def test_every_name_is_checked(names: tuple[str, ...]) -> None:
    for name in names:
        assert (
            impossible_value({name: 0})
            and impossible_value({name: LIMITS[names] + 1})
            and not impossible_value({name: 1})
        )


@pytest.mark.parametrize("command", [["run", "demo-lora"], ["ladder", "demo"], ["plan", "demo-lora"]])
def test_the_command_refuses_before_creating_anything(command: list[str], tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder(), model)
    (model / "config.json").write_text(json.dumps({**TINY, "num_attention_heads": 0}))
    # Neither the engine's libraries nor a worker fit into this time of the processor.
    done = ftbench(*command, "--model", str(model), preexec_fn=one_second)
    assert done.returncode == 2 and "num_attention_heads" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / "runs").exists()


def one_second() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
