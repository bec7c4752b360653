"""Predicted and measured memory of generation, for the tests."""

from __future__ import annotations

from planning.grid import SHAPES, Case
from planning.measure import MACHINE

from engine.memory.formula.estimate import MemoryEstimate
from engine.memory.formula.formula import formula


def check_answering(case: Case, plan: MemoryEstimate, real: int) -> None:
    """Assert that dry run and formula predict the measured peak of generation, in bytes."""
    light = formula(case.config, SHAPES[case.shape].to_dict(), "cpu", case.rows, MACHINE.bf16)
    assert plan.answering and light.answering
    assert -0.02 < plan.answering.total / real - 1 < 0.05
    assert -0.25 < light.answering.total / real - 1 < 0.25
    assert plan.evaluation.total == max(plan.answering.total, plan.held_out.total if plan.held_out else 0)
