"""One family for each mechanism, tiny and random, through what a run does with it; `bench/families.py` has all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import family_checks
import pytest
import torch
from command import events_of, only_run
from forked import ftbench
from transformers import AutoModelForCausalLM

from engine.config.method_specs import method_names
from engine.data.prepare import prepare
from engine.methods.model_source import load_tokenizer
from engine.runs.run.predictions import recorded_items
from engine.runs.run.run_dir import RunDir, read_frozen

MECHANISMS = {
    "attention": ("qwen3", "packed"),
    "sliding window": ("gemma3_text", "packed"),
    "experts in one tensor, masks without position ids": ("gpt_oss", "padded"),
    "dense layers before experts": ("glm4_moe", "packed"),
    "linear attention, and a vision tower": ("qwen3_5", "packed"),
    "short convolutions": ("lfm2", "packed"),
    "state space": ("mamba2", "padded"),
    "alibi": ("bloom", "padded"),
    "adapters whose names transformers renames": ("laguna", "packed"),
    "a tensor that becomes several, not all in 4 bits": ("lara_mini", "packed"),
    "a class that AutoModelForCausalLM does not know": ("mistral3", "packed"),
}
"""Mechanism -> a family that has it, and how a worker packs its rows."""
READ_DIRECTLY = {"mamba2"}
"""Families whose code reads weights without calling their layers, which adapters then cannot change."""
WORKER = ("qwen3_5", "gpt_oss")
"""Families that real workers train and export: linear attention with a tower, and experts whose rows would mix."""


@pytest.mark.parametrize(("family", "packing"), MECHANISMS.values(), ids=MECHANISMS)
def test_a_family_is_trained_resumed_and_merged_right(family: str, packing: str, tmp_path: Path) -> None:
    (tmp_path / "resume").mkdir()
    row = family_checks.check_family(family, tmp_path)
    for method in method_names():
        assert row[method]["state"] == "ok", row[method]
        assert row[method]["left_out"] <= 0.05 or family in READ_DIRECTLY, row[method]
    assert row["rows"]["packing"] == packing
    assert row["rows"]["chosen"] < family_checks.SAME_GRADIENT and row["rows"]["padded"] < family_checks.SAME_GRADIENT
    assert row["resume"]["resume"] == "equal to the bit"
    assert row["merged"]["merged"] == "equal", row["merged"]


@pytest.mark.parametrize("family", WORKER)
def test_a_worker_trains_and_exports_a_family(family: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    family_checks.write_model(family, model)
    rows = [{"prompt": f"{number} plus {number}?", "completion": f"It is {2 * number}."} for number in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model.id": str(model), "data.id": str(tmp_path / "rows.jsonl"), "train.steps": 2, "train.batch": 4,
        "train.max_length": 64, "evaluation.max_new_tokens": 2, "evaluation.rows": 4,
        "evaluation.forgetting_text": "none", "train.precision": "fp32",
    }  # fmt: skip
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = ftbench("run", "demo", "--method", "lora", *chosen)
    assert done.returncode == 0, done.stderr
    run = only_run(tmp_path)
    events = events_of(run)
    assert json.loads((run / "result.json").read_text())["status"] == "finished"
    (account,) = [event for event in events if event["type"] == "model"][:1]
    assert total(account) in (0, sum_of_parameters(model))
    warned = {event["code"] for event in events if event["type"] == "warning"}
    assert ("model.packing_unsupported" in warned) == (family == "gpt_oss")
    assert "model.left_out" not in warned
    exported = ftbench("export", run.name, "--to", "merged", "--json")
    assert exported.returncode == 0, exported.stderr


def test_a_worker_and_an_export_score_rows_of_all_lengths_as_alone(tmp_path: Path) -> None:
    """With frequencies of RoPE that change after 80 tokens: losses and answers of the base are those of transformers,
    and those of the exported model, loaded as servers load it, are those of the run.
    """
    model, limit = tmp_path / "model", 80
    model.mkdir()
    family_checks.write_model("phi3", model, "longrope", limit)
    asked = [f"{number} " * (1 + 7 * number % 60) for number in range(60)]
    rows = [{"prompt": prompt, "completion": f"It is {prompt[:20]}."} for prompt in asked]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "model.id": str(model), "data.id": str(tmp_path / "rows.jsonl"), "train.steps": 2, "train.batch": 8,
        "train.max_length": 256, "evaluation.max_new_tokens": 4, "evaluation.when": "both", "train.precision": "fp32",
        "evaluation.forgetting_text": "none", "data.test": 0.3, "evaluation.metric": "exact_match",
    }  # fmt: skip
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    done = ftbench("run", "demo", "--method", "lora", *chosen)
    assert done.returncode == 0, done.stderr
    run = RunDir(only_run(tmp_path))
    config = read_frozen(run).config
    test = prepare(config.data, config.train.max_length, load_tokenizer(config.model)).test
    lengths = [len(row.input_ids) for row in test]
    assert min(lengths) < limit - 4 and max(lengths) > limit + 4 and len(lengths) > 8
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    base = recorded_items(run.predictions_file, "base") or []
    losses = [family_checks.alone(plain, row)[0] for row in test]
    assert [item.nll for item in base] == pytest.approx(losses, rel=1e-4)
    tuned = recorded_items(run.predictions_file, "tuned") or []
    expected = sum(item.nll for item in tuned) / sum(item.tokens for item in tuned)
    for kind in (["merged", "--type", "f32"], ["adapter"]):
        exported = ftbench("export", run.path.name, "--to", *kind, "--json")
        fidelity = json.loads(exported.stdout)["fidelity"]
        assert exported.returncode == 0 and fidelity["identical"] == 1.0
        assert fidelity["loss"]["mean"] == pytest.approx(expected, rel=1e-5)


def total(event: dict[str, Any]) -> int:
    """Parameters that the account of a model event sums to; 0 without an account."""
    return sum(group["parameters"] for group in (event.get("account") or {}).get("groups", []))


def sum_of_parameters(folder: Path) -> int:
    from safetensors.torch import load_file  # only for this comparison

    return sum(tensor.numel() for file in folder.glob("*.safetensors") for tensor in load_file(file).values())
