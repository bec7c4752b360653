"""Plans from a configuration only, for the rows of the data, or refused; one as a request to another process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.memory.dry_run import plan
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import MemoryPlan, PlanQuery
from engine.methods.machine import Machine
from engine.runs.rpc_client import ask
from engine.worker.planning import describe_workload

GIB = 1 << 30
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}  # fmt: skip
CPU = Machine("cpu", "2 CPU cores", bf16=True, flash_attention=False)
ROOM = MemoryBudget(name="a GPU", device="cuda", source="listed", total=24 * GIB)


def config(method: Any, **settings: Any) -> Config:
    values = {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(Preset("test", values), method).config


def asked(question: PlanQuery) -> MemoryPlan:
    """The plan as the workbench asks for it."""
    return msgspec.convert(ask("plan", msgspec.to_builtins(question)), MemoryPlan)


def planned(question: PlanQuery) -> MemoryPlan:
    """The plan, in this process."""
    return plan.plan_methods(question, lambda text: None)


def test_a_configuration_is_enough(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "model_type": "llama"}))
    configs = [config(method, model__id=str(tmp_path)) for method in ("qlora", "full")]
    answer = asked(PlanQuery(configs=configs, qlora=configs[0], budget=ROOM, data_given=False))
    assert (answer.rows.length, answer.rows_from) == (512, "max_length")
    assert "no tokenizer" in answer.why
    assert [method_plan.method for method_plan in answer.methods] == ["qlora", "full"]
    for method_plan in answer.methods:
        assert method_plan.dry_run and method_plan.fit == "fits" and method_plan.micro_batch.limited_by == "nothing"
        assert method_plan.dry_run.training.total == pytest.approx(method_plan.formula.training.total, rel=0.25)
        assert method_plan.dry_run.parameters == method_plan.formula.parameters == answer.methods[-1].formula.trainable


def test_a_catalog_model_that_cannot_be_downloaded_is_planned_by_its_shape() -> None:
    configs = [config("lora", model__id="smollm2-135m", train__max_length=256)]
    answer = planned(PlanQuery(configs=configs, budget=ROOM))
    assert answer.methods[0].dry_run and (answer.rows.length, answer.rows_from) == (256, "max_length")
    assert "tokenizer" in answer.why
    assert any("smollm2-135m" in note and "catalog" in note for note in answer.notes)
    with pytest.raises(UserError) as error:
        planned(PlanQuery(configs=[config("lora", model__id="nobody/nothing")], budget=ROOM))
    assert error.value.code == "model.offline"


def test_rows_are_the_longest_of_the_data(tmp_path: Path) -> None:
    """Rows, steps and tokens equal those of a run (`engine.worker.planning`)."""
    configs = [config("lora", train__epochs=2.0)]
    answer = planned(
        PlanQuery(configs=configs, budget=MemoryBudget(name="here", device="cpu", source="system", total=8 * GIB))
    )
    workload = describe_workload(configs[0])["work"]
    assert answer.rows_from == "data" and answer.work
    assert answer.rows.length < configs[0].train.max_length
    assert (answer.work.rows, answer.work.steps, answer.work.tokens) == (
        workload["train"],
        workload["steps"],
        2 * workload["tokens"],
    )


def test_unreadable_data_is_an_error_if_named_and_else_a_note(tmp_path: Path) -> None:
    def question(given: bool) -> PlanQuery:
        configs = [config("lora", data__id=str(tmp_path / "gone.jsonl"))]
        return PlanQuery(configs=configs, budget=ROOM, data_given=given)

    with pytest.raises(UserError, match=r"gone\.jsonl"):
        planned(question(given=True))
    answer = planned(question(given=False))
    assert answer.rows_from == "max_length" and "gone.jsonl" in answer.why


@pytest.mark.parametrize("method", method_names())
def test_an_automatic_micro_batch_is_the_largest_that_fits(tmp_path: Path, method: Any) -> None:
    wide = {"hidden_size": 512, "intermediate_size": 2048}  # else weights and Python need most of the memory
    (tmp_path / "config.json").write_text(json.dumps({**TINY, "model_type": "llama", **wide}))
    small = MemoryBudget(name="small", device="cuda", source="listed", total=int(0.9 * GIB))
    settings = {"model__id": str(tmp_path), "train__batch": 32, "optimizer__name": "adamw_8bit"}
    question = PlanQuery(configs=[config(method, **settings)], budget=small, length=512)
    (method_plan,) = planned(question).methods
    assert method_plan.dry_run
    assert 1 < method_plan.dry_run.micro_batch < 32
    assert method_plan.dry_run.peak <= small.total
    assert method_plan.fit != "does not fit"


@pytest.mark.parametrize(
    ("table", "codes"),
    [
        ({"model_type": "no-such-kind"}, ["model.unsupported_architecture"]),
        ({"model_type": "strange", "auto_map": {"AutoConfig": "code.Config"}}, ["model.remote_code"]),
        ({"model_type": "vit"}, ["model.unsupported_architecture", "model.config_incomplete"]),
    ],
)
def test_what_cannot_be_planned_is_a_user_error(tmp_path: Path, table: dict[str, Any], codes: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(table))
    with pytest.raises(UserError) as error:
        planned(PlanQuery(configs=[config("lora", model__id=str(tmp_path))], budget=ROOM))
    assert error.value.code in codes


def test_large_data_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.jsonl"
    with large.open("wb") as file:
        file.truncate(plan.MAX_BYTES + 1)
    for name, why in ((str(large), "16 MiB is too large"), ("nobody/nothing", "on the Hub")):
        reason = plan.read_rows(config("lora", data__id=name), None, CPU, given=True)
        assert isinstance(reason, str) and why in reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch finds a CUDA GPU")
def test_a_gpu_that_torch_cannot_use_is_noted() -> None:
    seen = MemoryBudget(name="a GPU", device="cuda", source="gpu", total=GIB)
    machine, notes = plan.machine_for(seen)
    assert machine.device == "cuda"
    assert len(notes) == 1 and seen.name in notes[0]
    assert plan.machine_for(ROOM)[1] == []
