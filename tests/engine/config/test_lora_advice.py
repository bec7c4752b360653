"""Warnings from "LoRA Without Regret": when they appear, that each names its source, and where they are shown."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command import ftbench
from made_ladder import made_ladder

from engine.config.method_specs import LORA_SOURCE, TrainedRung, lora_notices
from engine.config.preset_library import resolve_preset
from engine.ladder.decisions import Decisions
from engine.ladder.sentences import verdict
from engine.runs.ladder.ladder_plan import make_plan
from tui.preview.launch_context import DataCheck
from tui.preview.launch_preview import adapter_problems
from tui.preview.method_estimate import MethodEstimate

FULL = TrainedRung("full", 1e-4, 16, "all-linear")


def codes(*rungs: TrainedRung) -> list[str]:
    notices = lora_notices({f"rung {number}": rung for number, rung in enumerate(rungs)})
    assert all(LORA_SOURCE in notice.text for notice in notices)
    return [notice.code for notice in notices]


def lora(rate: float = 1e-3, batch: int = 16, targets: str | list[str] = "all-linear", **more: int) -> TrainedRung:
    return TrainedRung("lora", rate, batch, targets, **more)


@pytest.mark.parametrize(("rate", "warns"), [(1e-3, False), (3e-4, False), (4e-3, False), (1e-4, True), (5e-3, True)])
def test_the_learning_rate_is_compared_with_that_of_full(rate: float, warns: bool) -> None:
    assert codes(FULL, lora(rate)) == (["lora.rate_ratio"] if warns else [])
    assert codes(lora(rate)) == []


@pytest.mark.parametrize(
    ("targets", "warns"),
    [
        ("all-linear", False),
        (["q_proj", "v_proj"], True),
        (["model.layers.0.self_attn.q_proj", "query_key_value"], True),
        (["q_proj", "up_proj"], False),
        (["gate_proj", "up_proj", "down_proj"], False),
        ("q_proj", True),
    ],
)
def test_attention_only_targets(targets: str | list[str], warns: bool) -> None:
    assert codes(lora(targets=targets)) == (["lora.attention_only"] if warns else [])


def test_fewer_parameters_than_answer_tokens() -> None:
    assert codes(lora(trainable=1000, answer_tokens=1001)) == ["lora.capacity"]
    assert codes(lora(trainable=1000, answer_tokens=1000)) == codes(lora(trainable=1000)) == []
    assert codes(lora(answer_tokens=1000)) == []


def test_a_batch_size_above_128_is_said_once() -> None:
    assert codes(lora(batch=129), lora(batch=129)) == ["lora.large_batch"]
    assert codes(lora(batch=128)) == codes(TrainedRung("full", 1e-4, 512, "all-linear")) == []


def test_the_shipped_demo_has_no_warning() -> None:
    plan = make_plan("demo", [], {})
    assert lora_notices({rung.name: TrainedRung.of(rung.config) for rung in plan.rungs}) == []


def test_the_verdict_has_them_as_caveats(tmp_path: Path) -> None:
    _, ladder = made_ladder(tmp_path)
    assert ladder.work
    ladder.work.answer_tokens = 300_000
    ladder.config["adapter.target_modules"] = ["q_proj", "v_proj"]
    ladder.config["train.batch"] = 256
    caveats = [sentence.text for sentence in verdict(ladder, Decisions(ladder)) if sentence.topic == "caveat"]
    assert " ".join(caveats).count(LORA_SOURCE) == 7  # QLoRA and LoRA: rate, targets and capacity; the batch size once
    assert any(re.match(r"QLoRA .*\b287k .*\b300k ", text) for text in caveats)


def test_the_launch_preview_has_them() -> None:
    config = resolve_preset("demo", "lora", {"adapter.target_modules": ["q_proj"], "train.batch": 256}).config
    estimate = MethodEstimate("lora", "unknown", config=config)
    problems = list(adapter_problems([estimate], ["LoRA"], DataCheck()))
    assert [problem.code for problem in problems] == ["lora.attention_only", "lora.large_batch"]
    assert not any(problem.blocking for problem in problems)


def test_the_plan_has_them() -> None:
    done = ftbench("plan", "demo", "--quick", "--json", "--set", "train.batch=256")
    assert done.returncode == 0, done.stderr
    assert any("batch size 256" in note and LORA_SOURCE in note for note in json.loads(done.stdout)["notes"])
