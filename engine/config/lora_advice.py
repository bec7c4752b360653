"""Variants of LoRA as rungs, and warnings about settings in which adapters are known to fall behind full fine-tuning.

Source of the warnings: "LoRA Without Regret" (Schulman and Thinking Machines Lab, 2025,
https://thinkingmachines.ai/blog/lora).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from engine.config.errors import Notice
from engine.config.method_specs import method_spec
from engine.config.quantities import count, rate
from engine.config.schema import Config
from engine.config.settings import Flat

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


SOURCE = "source: LoRA Without Regret, Thinking Machines Lab"
EXPECTED_RATIO = 10.0
"""Best learning rate of adapters divided by that of full fine-tuning, for all ranks."""
RATIO_BOUNDS = (EXPECTED_RATIO / 4, EXPECTED_RATIO * 4)
"""Ratios within these are not reported: the optimum is flat, and 15 is better under 100 steps."""
MAX_BATCH = 128
"""Batch size above which adapters lose more than full fine-tuning does."""
ATTENTION = frozenset((
    *("q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "out_proj", "query", "key", "value", "query_key_value"),
    *("c_attn", "Wqkv", "q", "k", "v", "o", "wq", "wk", "wv", "wo"),
))  # fmt: skip
"""Names of the linear layers of attention in transformers' models."""


class TrainedRung(NamedTuple):
    """What the warnings depend on."""

    method: str
    learning_rate: float | None
    batch: int
    target_modules: str | list[str]
    trainable: int | None = None
    """Trainable parameters; None if unknown."""
    answer_tokens: int | None = None
    """Tokens in the loss in one epoch; None if unknown."""

    @classmethod
    def of(cls, config: Config, trainable: int | None = None, answer_tokens: int | None = None) -> TrainedRung:
        train, modules = config.train, config.adapter.target_modules
        return cls(config.method, train.learning_rate, train.batch, modules, trainable, answer_tokens)


def lora_notices(rungs: Mapping[str, TrainedRung]) -> list[Notice]:
    """Warnings about these rungs by title, each once. Full fine-tuning is needed to judge learning rates."""
    notices: dict[Notice, None] = {}
    full = next((rung for rung in rungs.values() if method_spec(rung.method).trains_weights), None)
    for title, rung in rungs.items():
        if not method_spec(rung.method).is_lora:
            continue  # what is best for other adapters is not in the source
        for notice in (_rate(title, rung, full), _targets(title, rung), _capacity(title, rung), _batch(rung)):
            if notice:
                notices[notice] = None
    return list(notices)


def _rate(title: str, rung: TrainedRung, full: TrainedRung | None) -> Notice | None:
    if full is None or not full.learning_rate or not rung.learning_rate:
        return None
    ratio = rung.learning_rate / full.learning_rate
    if RATIO_BOUNDS[0] <= ratio <= RATIO_BOUNDS[1]:
        return None
    rates = f"{title} trains at {rate(rung.learning_rate)}, full fine-tuning at {rate(full.learning_rate)}"
    text = f"{rates}: the best learning rate for adapters is usually about {EXPECTED_RATIO:.0f} times full's ({SOURCE})"
    return Notice("lora.rate_ratio", text)


def _targets(title: str, rung: TrainedRung) -> Notice | None:
    modules = [rung.target_modules] if isinstance(rung.target_modules, str) else rung.target_modules
    if not modules or not all(name.rpartition(".")[2] in ATTENTION for name in modules):
        return None
    text = f"{title} trains attention layers only, which is worse than all linear layers at equal size"
    return Notice("lora.attention_only", f"{text}; --set adapter.target_modules=all-linear ({SOURCE})")


def _capacity(title: str, rung: TrainedRung) -> Notice | None:
    if rung.trainable is None or not rung.answer_tokens or rung.trainable >= rung.answer_tokens:
        return None
    sizes = f"{count(rung.trainable)} parameters for {count(rung.answer_tokens)} answer tokens"
    text = (
        f"{title} has {sizes}: adapters with fewer parameters than answer tokens can learn less than full fine-tuning"
    )
    return Notice("lora.capacity", f"{text}; use a larger `--set adapter.rank=N` ({SOURCE})")


def _batch(rung: TrainedRung) -> Notice | None:
    if rung.batch <= MAX_BATCH:
        return None
    text = f"batch size {rung.batch}: above {MAX_BATCH}, adapters lose more quality than full fine-tuning"
    return Notice("lora.large_batch", f"{text}; `--set train.batch={MAX_BATCH}` ({SOURCE})")
