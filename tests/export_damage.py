"""What is done to artifacts so that a check must notice it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file

from engine.assets import tiny_folder

Damage = Callable[[Path, Path], None]


def wrong_scale(adapter: Path, merged: Path) -> None:
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "lora_alpha": config["lora_alpha"] * 4}))


def wrong_base(adapter: Path, merged: Path) -> None:
    other = adapter.parent / "other"
    shutil.copytree(tiny_folder(), other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] += 0.01
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "base_model_name_or_path": str(other)}))


def lost_end_token(adapter: Path, merged: Path) -> None:
    path = merged / "generation_config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "eos_token_id": 1}))


def wrong_template(adapter: Path, merged: Path) -> None:
    path = merged / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>", "<|im_start|> "))


def untied_embeddings(adapter: Path, merged: Path) -> None:
    path = merged / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "tie_word_embeddings": False}))


def missing_weights(adapter: Path, merged: Path) -> None:
    weights = load_file(merged / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if ".layers.3." not in name}
    save_file(kept, merged / "model.safetensors", metadata={"format": "pt"})


DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "wrong scale": (wrong_scale, "adapter", ""),
    "wrong base": (wrong_base, "adapter", "export.other_base"),
    "lost end token": (lost_end_token, "merged", "export.lost_end_token"),
    "wrong template": (wrong_template, "merged", "export.other_prompts"),
    "untied embeddings": (untied_embeddings, "merged", "export.missing_weights"),
    "missing weights": (missing_weights, "merged", "export.missing_weights"),
}
"""What is done to an artifact -> (how, which artifact, code of the defect; '' for a worse score alone)."""
