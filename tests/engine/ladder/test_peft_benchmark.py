"""The preset `peft-benchmark`: planned on PEFT's model and settings, scored as PEFT's published rule scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from command import ftbench
from places import TOOLS

sys.path.insert(0, str(TOOLS))

import peft_benchmark

from engine.config.settings import with_settings
from engine.evaluation.metrics import number
from engine.runs.ladder.ladder_plan import make_plan
from engine.worker.planning import describe_workload

ITEMS = 1319
LLAMA_3_2_3B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 28,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the form of MetaMathQA and GSM8K."""
    folder = tmp_path_factory.mktemp("benchmark")
    metamath = [
        {"query": f"What is {n} + 1?", "response": f"It is {n + 1}.\nThe answer is: {n + 1}"} for n in range(400)
    ]
    metamath.append({"query": "long", "response": "x" * 1300})
    gsm8k = [{"question": f"{n} ducks and 2 more?", "answer": f"{n} + 2\n#### {n + 2}"} for n in range(ITEMS)]
    (folder / "m.json").write_text(json.dumps(metamath))
    (folder / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in gsm8k))
    peft_benchmark.write(folder / "data", folder / "m.json", folder / "g.jsonl")
    return folder / "data"


def test_three_seeds_of_every_method_with_the_settings_of_the_benchmark(data: Path) -> None:
    plan = make_plan("peft-benchmark", [], {"data.id": str(data)}, seeds=3)
    configs = {rung.name: rung.config for rung in plan.rungs}
    assert list(configs) == ["qlora", "lora", "full"] and plan.seeds == [0, 1, 2]
    assert {name: config.train.learning_rate for name, config in configs.items()} == {
        "qlora": 1e-4,
        "lora": 1e-4,
        "full": 1e-5,
    }
    train, adapter = configs["lora"].train, configs["lora"].adapter
    assert (train.steps, train.batch, train.max_length, train.weight_decay) == (5000, 4, 768, 0.1)
    assert (adapter.rank, adapter.alpha, adapter.target_modules) == (32, 64.0, ["q_proj", "v_proj"])


def test_all_items_of_gsm8k_are_scored_and_long_training_rows_left_out(data: Path) -> None:
    config = make_plan("peft-benchmark", ["lora"], {"data.id": str(data)}).rungs[0].config
    work = describe_workload(with_settings(config, {"model.id": "tiny"}))["work"]  # its tokenizer is on this machine
    assert (work["test"], work["steps"], work["batch"], work["metric"]) == (ITEMS, 5000, 4, "number")
    assert work["train"] + work["validation"] == 400


def test_memory_is_planned_for_the_gpu_of_the_published_table(tmp_path: Path) -> None:
    """Trainable parameters as published for rank 32: 9,175,040."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_3_2_3B))
    done = ftbench("plan", "peft-benchmark", "--quick", "--json", "--gpu", "A100 80GB", "--model", str(tmp_path))
    assert done.returncode == 0, done.stderr
    methods = {method["method"]: method for method in json.loads(done.stdout)["methods"]}
    assert methods["lora"]["formula"]["trainable"] == methods["qlora"]["formula"]["trainable"] == 9_175_040
    assert methods["full"]["formula"]["trainable"] > 3.2e9
    assert methods["lora"]["fit"] == "fits"


@pytest.mark.parametrize(
    ("output", "target", "correct"),
    [
        ("4 squared is 16. The answer is: 16", "#### 16", True),
        ("The answer is 16.", "#### 16", True),
        ("The final answer is: $16!", "#### 16", True),
        ("So it is\n#### 16", "The answer is: 16", True),
        ("The answer is: 16\n\nQuestion: 5 apples and 7 pears?", "#### 16", True),
        ("The answer is: 3. No: The answer is: 16", "#### 16", True),
        ("The answer is: 50%", "#### 50", True),
        ("The answer is: 16.0", "#### 16", True),
        ("The answer is: 1/2", "The answer is: 0.5", True),
        ("The answer is: 20/35", "The answer is: 4/7", True),
        ("The answer is: -3", "#### -3", True),
        ("The answer is: 17", "#### 16", False),
        ("The answer is: 1/0", "#### 1", False),
        ("16 apples and 16 pears. The answer is: 32", "#### 16", False),
        ("The answer is: unknown", "#### 16", False),
        ("I do not know", "#### 16", False),
    ],
)
def test_the_metric_number_agrees_with_the_published_rule(output: str, target: str, correct: bool) -> None:
    """As `parse_answer` and `get_accuracy` of PEFT's method_comparison/MetaMathQA/utils.py find them."""
    assert number(output, target)["number"] == float(correct)
