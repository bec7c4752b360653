"""Make the model of `fixtures/small`: a twelfth of the embedded model's weights, its tokenizer, trained for 60 steps.

    python tests/make_small_model.py

Its answers are never right. Its loss on the tickets is 2.7 nats/token at first, and adapters reduce that to 2.5.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import torch
from command import FTBENCH, SMALL
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from engine.assets import tiny_folder

SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 16}
TRAINING = {
    "train.steps": 60,
    "train.batch": 8,
    "train.learning_rate": 0.003,
    "train.probe": False,
    "evaluation.when": "never",
}


def main() -> None:
    SMALL.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (SMALL / name).unlink(missing_ok=True)
        (SMALL / name).symlink_to(os.path.relpath(tiny_folder() / name, SMALL))
    table = json.loads((tiny_folder() / "config.json").read_text()) | SIZES
    (SMALL / "config.json").write_text(json.dumps(table, indent=2) + "\n")
    torch.manual_seed(0)
    save(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(SMALL)).state_dict())
    with tempfile.TemporaryDirectory() as runs:
        settings = [word for key, value in TRAINING.items() for word in ("--set", f"{key}={json.dumps(value)}")]
        subprocess.run([FTBENCH, "run", "demo-full", "--model", SMALL, *settings, "--runs", runs], check=True)
        save(load_file(next(Path(runs).glob("*/model/model.safetensors"))))


def save(weights: dict[str, torch.Tensor]) -> None:
    tied = {name: tensor.to(torch.bfloat16) for name, tensor in weights.items() if name != "lm_head.weight"}
    save_file(tied, SMALL / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    main()
