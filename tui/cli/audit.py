"""`doctor --audit PRESET`: count what each method's step would do on a GPU, on fake tensors, and check its bounds."""

from __future__ import annotations

from typing import Any

import msgspec

from engine.config.method_specs import method_names
from engine.config.preset import Flat
from engine.config.preset_library import resolve_preset
from engine.config.quantities import size
from engine.memory.formula.audit_bounds import Bound, bounds
from engine.memory.formula.audit_counts import MethodAudit, PhaseCounts
from engine.runs.rpc_client import ask
from tui.output.console import print_json, say, table

MICRO_BATCH = 4
"""Rows of a forward pass: a step has several micro-batches."""


def audit(preset: str, settings: Flat, json: bool) -> int:
    """Print the counts of each method. Returns 1 where a bound is exceeded, else 0."""
    chosen = {"train.gradient_checkpointing": False, **settings}  # recomputed products would hide superfluous ones
    configs = [resolve_preset(preset, method, chosen).config for method in method_names()]
    request = {"configs": msgspec.to_builtins(configs), "micro_batch": MICRO_BATCH}
    found = msgspec.convert(ask("audit", request), list[MethodAudit])
    checked = {one.method: bounds(one) for one in found}
    if json:
        print_json([_as_json(one, checked[one.method]) for one in found])
    else:
        first = found[0]
        say(f"One optimizer step of {configs[0].model.id} with {first.tokens:,} tokens in rows of a log-normal length,")
        ran = f"{first.layers} of {first.all_layers} layers" if first.layers else "all layers"
        say(f"{first.training.micro_batches} micro-batches and {ran}, on fake tensors with the kernels of a GPU.")
        table("counts", ["", *checked], _counts(found))
        say("")
        table("bounds", ["", "limit", *checked], _bounds(checked))
    return int(any(not bound.kept for one in checked.values() for bound in one))


def _as_json(found: MethodAudit, checked: list[Bound]) -> dict[str, Any]:
    named = [
        {"name": one.name, "value": one.value, "limit": one.limit, "unit": one.unit, "kept": one.kept}
        for one in checked
    ]
    return {**msgspec.to_builtins(found), "bounds": named}


def _counts(found: list[MethodAudit]) -> list[list[str]]:
    rows = []
    for title, name in (("training step", "training"), ("held-out loss", "held_out"), ("decoding", "decoding")):
        phases: list[PhaseCounts] = [getattr(one, name) for one in found]
        rows.append([f"{title}, matmuls", *map(_flops, phases)])
        rows.append(["  casts", *(size(phase.cast_bytes) for phase in phases)])
        rows.append(["  peak of logits", *(size(phase.logits_bytes) for phase in phases)])
        rows.append(["  host synchronizations", *(str(sum(phase.host_waits.values())) for phase in phases)])
    return rows


def _flops(phase: PhaseCounts) -> str:
    """`16.2 TFLOP bfloat16`, by data type."""
    return ", ".join(f"{flops / 1e12:.3g} TFLOP {dtype}" for dtype, flops in sorted(phase.matmul.items())) or "none"


def _bounds(checked: dict[str, list[Bound]]) -> list[list[str]]:
    rows = []
    for name in _names(checked):
        found = [bound for one in checked.values() for bound in one if bound.name == name]
        rows.append([name, _value(found[0], found[0].limit), *map(_checked, found)])
    return rows


def _names(checked: dict[str, list[Bound]]) -> list[str]:
    return list(dict.fromkeys(bound.name for one in checked.values() for bound in one))


def _checked(bound: Bound) -> str:
    return f"{_value(bound, bound.value)}{'' if bound.kept else '  exceeded'}"


def _value(bound: Bound, value: float) -> str:
    if bound.unit == "bytes":
        return size(round(value)) if value else "0"
    return f"{value:.3g}"
