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

    def warn(code: str, text: str) -> None:
        notices[Notice(code, f"{text} ({SOURCE})")] = None

    full = next((rung for rung in rungs.values() if method_spec(rung.method).trains_weights), None)
    for title, rung in rungs.items():
        if not method_spec(rung.method).is_lora:
            continue  # what is best for other adapters is not in the source
        if full and full.learning_rate and rung.learning_rate:
            low, high = RATIO_BOUNDS
            if not low <= rung.learning_rate / full.learning_rate <= high:
                rates = f"{title} trains at {rate(rung.learning_rate)}, full fine-tuning at {rate(full.learning_rate)}"
                best = f"the best learning rate for adapters is usually about {EXPECTED_RATIO:.0f} times full's"
                warn("lora.rate_ratio", f"{rates}: {best}")
        modules = [rung.target_modules] if isinstance(rung.target_modules, str) else rung.target_modules
        if modules and all(name.rpartition(".")[2] in ATTENTION for name in modules):
            worse = f"{title} trains attention layers only, which is worse than all linear layers at equal size"
            warn("lora.attention_only", f"{worse}; --set adapter.target_modules=all-linear")
        if rung.trainable is not None and rung.answer_tokens and rung.trainable < rung.answer_tokens:
            sizes = f"{title} has {count(rung.trainable)} parameters for {count(rung.answer_tokens)} answer tokens"
            less = "adapters with fewer parameters than answer tokens can learn less than full fine-tuning"
            warn("lora.capacity", f"{sizes}: {less}; use a larger `--set adapter.rank=N`")
        if rung.batch > MAX_BATCH:
            more = f"batch size {rung.batch}: above {MAX_BATCH}, adapters lose more quality than full fine-tuning"
            warn("lora.large_batch", f"{more}; `--set train.batch={MAX_BATCH}`")
    return list(notices)
