from __future__ import annotations

import pytest

from engine.config.device_defaults import automatic_on_resume, automatic_optimizer


def test_only_state_on_a_gpu_has_8_bits() -> None:
    assert automatic_optimizer("cpu") == automatic_optimizer("cpu", paged=True) == "adamw"
    assert automatic_optimizer("cuda") == "adamw_8bit"
    assert automatic_optimizer("cuda", paged=True) == "paged_adamw_8bit"


@pytest.mark.parametrize(
    ("earlier", "on_cpu", "on_gpu"),
    [
        ("", "auto", "auto"),
        ("adamw (fused)", "adamw", "adamw"),
        ("adamw (compensated bf16)", "adamw", "adamw"),
        ("adamw_8bit", "adamw_8bit", "auto"),
        ("paged_adamw_8bit (stochastically rounded bf16)", "adamw_8bit", "auto"),
    ],
)
def test_a_resumed_run_keeps_state_of_as_many_bits(earlier: str, on_cpu: str, on_gpu: str) -> None:
    assert automatic_on_resume("cpu", earlier) == on_cpu
    assert automatic_on_resume("cuda", earlier) == on_gpu
