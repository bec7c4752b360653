"""A model with an impossible config.json is refused before anything is loaded or created."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from command import ftbench

from engine.assets import tiny_folder
from engine.config.catalog import CATALOG
from engine.config.model_files import check_model_files, find_model
from engine.config.model_limits import LIMITS, ROPE_TYPES, impossible_value
from engine.config.schema import Model
from tui.preview.method_estimate import method_estimate
from tui.selection import Selection

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


NOT_NUMBERS = [
    *(("rms_norm_eps", value) for value in (math.nan, math.inf, -1e-6, 1e308, 10**400)),
    *(("rope_theta", value) for value in (1e308, math.nan, 0, -10_000.0)),
    ("attention_dropout", 2.0),
    ("attention_dropout", math.nan),
    ("initializer_range", -math.inf),
    ("final_logit_softcapping", -30.0),
    ("embedding_multiplier", 1e30),
    ("a_setting_that_nobody_knows", math.nan),
    ("another", [1.0, {"deep": [math.inf]}]),
    ("time_step_limit", [0.0, math.nan]),
    ("rope_parameters", {"rope_type": "default", "rope_theta": math.nan}),
    ("rope_parameters", {"full_attention": {"rope_type": "linear", "factor": 0, "rope_theta": 1e4}}),
    ("rope_scaling", {"type": "longrope", "short_factor": [1.0, math.nan], "long_factor": [1.0]}),
]
UNKNOWN: list[tuple[str, Any]] = [
    ("rope_scaling", {"type": "nonesuch", "factor": 2.0}),
    ("rope_parameters", {"rope_type": ["linear"], "factor": 2.0}),
    ("rope_parameters", {"sliding_attention": {"rope_type": "nonesuch"}}),
    ("rope_scaling", {"rope_type": "linear"}),
    ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
    ("rope_scaling", 2.0),
    ("rope_scaling", "linear"),
    ("model_type", ["llama"]),
    ("dtype", "nonsense"),
    ("torch_dtype", 7),
]


@pytest.mark.parametrize(("key", "value"), [*NOT_NUMBERS, *UNKNOWN])
def test_values_that_no_model_can_be_computed_with_are_named(key: str, value: Any) -> None:
    for section in ({**TINY, key: value}, {"text_config": {**TINY, key: value}}):
        fault = impossible_value(section)
        assert key in fault and (" is " in fault or " has " in fault) and len(fault) < 200


@pytest.mark.slow
def test_the_defaults_of_every_architecture_are_possible() -> None:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    tables = {}
    for name in set(CONFIG_MAPPING) - {"lxmert", "musicflamingo"}:  # no language models: layers by kind, a float
        with contextlib.suppress(Exception):  # composed ones that have no defaults
            tables[name] = CONFIG_MAPPING[name]().to_dict()
    assert len(tables) > 400
    assert not {name: fault for name, table in tables.items() if (fault := impossible_value(table))}


def test_infinite_steps_of_time_are_possible(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder(), model)
    (model / "config.json").write_text(json.dumps({**TINY, "time_step_limit": [0.0, math.inf]}))
    check_model_files(model)
    assert find_model(Model(id=str(model))).table


def test_types_of_rope_are_those_of_transformers() -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    assert set(ROPE_INIT_FUNCTIONS) <= set(ROPE_TYPES)


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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("rms_norm_eps", math.nan, "model.config"),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e308}, "model.config"),
        ("rope_scaling", {"type": "nonesuch", "factor": 2.0}, "model.config"),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "model.already_quantized"),
    ],
)
def test_every_command_refuses_the_same_models(key: str, value: Any, code: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_folder(), model)
    (model / "config.json").write_text(json.dumps({**TINY, key: value}))
    problems = set()
    for command in (["data", "check", "tickets"], ["plan", "demo-lora"], ["run", "demo-lora"]):
        done = ftbench(*command, "--model", str(model), "--json")
        assert done.returncode == 2, done
        if done.stderr:
            error = json.loads(done.stderr.splitlines()[-1])["error"]
            problems.add((error["code"], error["problem"].partition(f": {model}")[0]))
        else:
            report = json.loads(done.stdout)
            problems.add((report["refusal_code"], report["refused"].partition(f": {model}")[0]))
    ((refused, problem),) = problems
    assert refused == code and problem
    config = Selection("demo-lora", {"model.id": str(model)}).effective().config
    estimate = method_estimate(config, find_model(config.model), None)
    assert problem in (estimate.why, estimate.why.partition("; ")[0])


def one_second() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
