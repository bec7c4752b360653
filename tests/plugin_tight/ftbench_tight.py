"""A method as from another package: LoRA on a GPU in which one row fits, but only on the second of two ranks."""

from __future__ import annotations

from engine.config.method_specs import MethodSpec

TIGHT = MethodSpec(
    name="tight-lora",
    title="tight LoRA",
    in_text="tight LoRA",
    trains_summary="adapters",
    use_summary="for tests",
    description="LoRA whose second rank has memory for one row.",
    module="ftbench_tight_method",
    trains="adapters",
    defaults={"train.learning_rate": 5e-3, "train.max_grad_norm": 1.0, "optimizer.name": "adamw"},
    is_lora=True,
    reads=("adapter",),
    needs_less="qlora",
)
