"""A package that adds a method, a metric and a pane to ftbench: only these files and three entry points.

Its metadata folder next to this file is what `pip install` would write for

    [project.entry-points."ftbench.methods"]
    attention-lora = "ftbench_example:ATTENTION_LORA"
    [project.entry-points."ftbench.metrics"]
    edits = "ftbench_example:EDITS"
    [project.entry-points."ftbench.panes"]
    steps = "ftbench_example_pane:StepsPane"

This module imports no torch, because the workbench reads the specs. Training, scoring and pane are in other modules.
"""

from __future__ import annotations

from engine.config.method_specs import MethodSpec
from engine.config.metric_specs import MetricSpec

ATTENTION_LORA = MethodSpec(
    name="attention-lora",
    title="LoRA (attn)",
    in_text="LoRA on attention",
    trains_summary="adapters, attention only",
    use_summary="to compare with LoRA",
    description="LoRA on the attention projections only, as in the first LoRA paper.",
    module="ftbench_example_method",
    trains="adapters",
    defaults={"train.learning_rate": 5e-3, "train.max_grad_norm": 1.0, "optimizer.name": "adamw"},
    reads=("adapter",),
    needs_less="qlora",
)
EDITS = MetricSpec(
    name="edits",
    title="edits",
    scoring="ftbench_example_metric:edits",
    lower_is_better=True,
    bounds=(0.0, float("inf")),
    unit="edits",
)
