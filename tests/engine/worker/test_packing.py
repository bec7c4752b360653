"""The packing of a run: shared prefixes where they save tokens, and reasons where they are not used."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command import events_of, only_run
from forked import ftbench

from engine.config.catalog import CATALOG
from engine.config.schema import Config, Train
from engine.data.prepare import prepare
from engine.memory.dry_run.data_rows import with_packing
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.methods import method
from engine.methods.machine import Machine, this_machine
from engine.methods.tokenizer import load_tokenizer
from engine.training import varlen_attention
from engine.training.collation import Packing
from engine.worker.packing import decide_packing

CPU = Machine("cpu", "a CPU", bf16=False, flash_attention=False)
FLASH = Machine("cuda", "a GPU", bf16=True, flash_attention=True)
SHORT = (
    *("--set", "train.steps=2", "--set", "train.evaluate_every=2", "--set", "data.validation=0.005"),
    *("--set", "evaluation.when=never", "--set", "train.probe=false"),
)


def run_of(folder: Path, preset: str, *settings: str) -> list[dict[str, Any]]:
    """The events of a short run."""
    more = [part for setting in settings for part in ("--set", setting)]
    done = ftbench("run", preset, *SHORT, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    return events_of(only_run(folder))


def of_type(events: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == kind]


def test_a_common_system_prompt_is_computed_once(tmp_path: Path) -> None:
    events = run_of(tmp_path, "demo-schema")
    plan = of_type(events, "plan")[-1]
    assert plan["packing"] == "shared_prefix" and plan["shared_prefix"] >= 60 and plan["shared_rows"] == 1592
    for step in of_type(events, "step"):
        assert step["tokens"] / step["computed_tokens"] == pytest.approx(plan["token_ratio"], rel=0.15)
    assert of_type(events, "warning") == []


@pytest.mark.parametrize(
    ("settings", "packing", "code"),
    [
        (["adapter.dropout=0.1"], "packed", "train.shared_prefix_off"),
        (["adapter.dropout=0.1", "train.packing=shared_prefix"], "shared_prefix", ""),
        (["model.attention=eager", "train.packing=shared_prefix"], "packed", "train.no_shared_prefix"),
    ],
)
def test_where_prefixes_are_not_shared_the_reason_is_a_warning(
    settings: list[str], packing: str, code: str, tmp_path: Path
) -> None:
    events = run_of(tmp_path, "demo-schema", *settings)
    assert of_type(events, "plan")[-1]["packing"] == packing
    assert [event["code"] for event in of_type(events, "warning")] == [code] * bool(code)


def test_the_formula_counts_the_tokens_of_the_packing_that_was_chosen() -> None:
    shape, rows = CATALOG["smollm2-135m"].shape, StepShape(count=8, length=500, answer=20, shared=430)
    config, chosen = Config(method="lora"), Packing("shared_prefix", 2048, True)
    shared = with_packing(config, CPU, chosen)
    peaks = [formula(one, shape, "cpu", rows).training.total for one in (config, shared)]
    assert shared.train.packing == "shared_prefix" and peaks[1] < 0.8 * peaks[0]
    assert with_packing(config, FLASH, Packing("packed", 2048)).train.packing == "auto"


def test_a_kernel_that_does_not_support_the_model_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of a GPU's kernel, the CPU's raises."""

    def refuse(*args: Any, **options: Any) -> Any:
        raise RuntimeError("head size 20 is not supported")

    warned: list[str] = []
    config = Config(train=Train(batch=4))
    base = method("lora").load(config, this_machine())
    rows = prepare(config.data, config.train.max_length, load_tokenizer(config.model))
    run = SimpleNamespace(
        config=config, machine=this_machine(), sharing=None, warn=lambda code, text: warned.append(f"{code}: {text}")
    )
    monkeypatch.setattr(varlen_attention, "_forward", refuse)
    chosen = decide_packing(run, base, SimpleNamespace(rows=rows, loss_rows=[]), 0)
    assert (chosen.mode, chosen.segments) == ("packed", False)
    assert len(warned) == 1 and warned[0].startswith("model.packing_unsupported") and "head size 20" in warned[0]
