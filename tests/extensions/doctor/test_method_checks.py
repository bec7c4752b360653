"""The check of `ftbench doctor`: one training step of each method on this machine."""

from __future__ import annotations

import pytest

from engine.config.method_specs import method_names
from engine.extensions.doctor.report import check_methods
from engine.methods import qlora
from engine.methods.machine import this_machine


def test_every_built_in_method_trains_one_step() -> None:
    checks = {check["method"]: check for check in check_methods(this_machine())}
    assert set(checks) == set(method_names())
    assert all(check["ready"] and check["optimizer"] for check in checks.values()), checks


def test_a_broken_library_makes_only_its_method_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no kernel image is\navailable")

    monkeypatch.setattr(qlora, "load", fail)
    checks = {check["method"]: check for check in check_methods(this_machine())}
    assert checks["qlora"]["why"] == "RuntimeError: no kernel image is available" and not checks["qlora"]["ready"]
    assert checks["lora"]["ready"] and checks["full"]["ready"]
