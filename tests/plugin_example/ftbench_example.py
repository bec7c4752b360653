"""A package that adds to ftbench a method, a metric, a pane, a rung, a kind of export, a screen with its
key, and commands, each by an entry point.

Its metadata folder next to this file is what `pip install` would write for

    [project.entry-points."ftbench.methods"]
    vera = "ftbench_example:VERA"
    [project.entry-points."ftbench.metrics"]
    edits = "ftbench_example:EDITS"
    [project.entry-points."ftbench.panes"]
    steps = "ftbench_example_pane:StepsPane"
    [project.entry-points."ftbench.rungs"]
    constant = "ftbench_example_rung:KIND"
    [project.entry-points."ftbench.exporters"]
    zip = "ftbench_example_exporter:FORMAT"

This module imports no torch, because the workbench reads the specs. What it names is in other modules.
"""

from __future__ import annotations

from engine.config.method_specs import MethodSpec
from engine.config.metric_specs import MetricSpec

VERA = MethodSpec(
    name="vera",
    title="VeRA",
    in_text="VeRA",
    trains_summary="vectors, bf16 base",
    use_summary="smallest artifact",
    description="Two vectors per layer are trained, which scale a pair of random matrices that all layers share.",
    module="ftbench_example_method",  # has load, make_trainable and weight_dtype
    trains="adapters",
    defaults={"train.learning_rate": 1e-2, "train.max_grad_norm": 1.0, "optimizer.name": "adamw"},
    reads=("adapter.rank", "adapter.dropout", "adapter.target_modules"),  # another key of [adapter] is refused
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
