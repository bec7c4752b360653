"""Variants of LoRA as rungs of a ladder: a name for each setting that makes it."""

from __future__ import annotations

from engine.config.preset_values import Flat

LORA_VARIANTS: dict[str, Flat] = {
    "rslora": {"adapter.rslora": True},
    "dora": {"adapter.dora": True},
    "pissa": {"adapter.init": "pissa"},
    "lora-plus": {"adapter.lora_plus_ratio": 16.0},
}
"""Name of the rung -> settings of LoRA. rsLoRA: arXiv:2312.03732; DoRA: arXiv:2402.09353; PiSSA: arXiv:2404.02948;
LoRA+: arXiv:2402.12354, whose authors recommend a ratio of 16."""
VARIANT_TITLES = {"rslora": "rsLoRA", "dora": "DoRA", "pissa": "PiSSA", "lora-plus": "LoRA+"}
"""Name of the rung -> its name in text."""
