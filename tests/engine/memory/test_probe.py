"""The probe does not change training, finds the largest step, and reduces what does not fit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from command import WHOLE, events_of
from forked import ftbench
from small_models import FULL_ATTENTION, PAD, made
from small_training import Steps, make_training
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.config import schema
from engine.config.device_defaults import EVERY_LAYER, ActivationCheckpointing
from engine.data.rows import Row
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_step, relative_memory
from engine.memory.probe import Probe, ProbeResult, balanced_micro_batch
from engine.methods.machine import Machine
from engine.methods.optimizers import make_optimizer
from engine.runs.run.result import Result
from engine.training.batches import BatchSampler, Packing, micro_batches
from engine.training.fit import fit
from engine.training.gradients import StepGradients
from engine.training.guards import OutOfMemory
from engine.training.meters import Meters

LAYOUT = Packing("padded", 100_000)
CPU = Machine("cpu", "a CPU", bf16=True, flash_attention=False)
PAGING = Machine("cuda", "a GPU, for the choice of the optimizer", bf16=True, flash_attention=False)


def row(length: int, answer: int = 3) -> Row:
    ids = [3 + (length * 7 + place * 11) % 200 for place in range(length)]
    return Row(ids, [-100] * (length - answer) + ids[-answer:], ids[:-answer], "", f"row of {length}", False)


ROWS = [row(5 + 7 * number % 40, 1 + number % 4) for number in range(20)]


def recomputes(module: torch.nn.Module) -> bool:
    return isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing


class Tight(StepGradients):
    """Simulates a device of limited size: micro-batches of more rows than `budget` do not fit."""

    budget = 99
    recomputing = 0
    """Layers that have to recompute their activations."""

    def forward_backward(self, group: list[Row], total_weight: float) -> torch.Tensor:
        if len(group) > self.budget or sum(map(recomputes, self.model.modules())) < self.recomputing:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward_backward(group, total_weight)


def trained(
    folder: Path,
    look: Callable[[Probe], object],
    optimizer_name: str = "adamw",
    budget: int = 99,
    **how: Any,
) -> tuple[list[torch.Tensor], Tight]:
    """Three steps of four rows of a small model with dropout, after `look`; returns its weights and their gradients."""
    config = schema.Config(
        method="full",
        train=schema.Train(learning_rate=1e-2, batch=4, weight_decay=0.1),
        optimizer=schema.Optimizer(name=optimizer_name, step_in_backward=how.get("in_backward", False)),
    )
    rows = how.get("rows", ROWS)
    shape = FULL_ATTENTION["llama"]
    shape.attention_dropout = 0.2
    model = made(shape).to(how.get("dtype", torch.float32))
    sampler = BatchSampler.of(len(rows), 4, 1, 3, 0)
    machine = PAGING if optimizer_name.startswith("paged") else CPU
    optimizer, _ = make_optimizer(model.parameters(), config, machine, lambda code, text: None)
    training = make_training(
        model, rows, sampler, config, optimizer, folder, packing=LAYOUT, micro_batch=4, pad=PAD, gradients=Tight
    )
    gradients = training.gradients
    assert isinstance(gradients, Tight)
    gradients.budget, gradients.recomputing = budget, how.get("recomputing", 0)
    own = WorstCaseBatches(LAYOUT, longest_step(rows, sampler, 0, 4, LAYOUT), [], [], 1, PAD)
    meters = Meters(lambda memory: None, None)
    meters.model_begins()
    probe = Probe(
        gradients, optimizer, own, meters, True, how.get("evaluate"), how.get("fits"),
        how.get("warn", lambda code, text: None), stronger=how.get("stronger", []),
    )  # fmt: skip

    fit(training, Steps(begin=lambda: look(probe)))
    return [parameter.detach().clone() for parameter in model.parameters()], gradients


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "paged_adamw_8bit"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_a_run_without_a_probe(
    name: str, dtype: torch.dtype, in_backward: bool, tmp_path: Path
) -> None:
    seen: list[ProbeResult] = []
    how: dict[str, Any] = {"dtype": dtype, "in_backward": in_backward}
    without, _ = trained(tmp_path / "a", lambda probe: None, name, **how)
    probed, _ = trained(tmp_path / "b", lambda probe: seen.append(probe.run()), name, **how)
    assert all(map(torch.equal, without, probed))
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["adamw_8bit", "paged_adamw_8bit"])
def test_a_probe_of_steps_in_the_backward_pass_has_one_gradient_at_a_time(name: str, tmp_path: Path) -> None:
    counts: list[int] = []

    def look(probe: Probe) -> None:
        step = "allocate_step" if name.startswith("paged") else "step"
        whole = getattr(probe.optimizer, step)

        def spied() -> None:
            counts.append(sum(weight.grad is not None for weight in probe.gradients.model.parameters()))
            whole()

        setattr(probe.optimizer, step, spied)
        probe.run()
        setattr(probe.optimizer, step, whole)

    trained(tmp_path, look, name, dtype=torch.bfloat16, in_backward=True)
    assert set(counts) == {0, 1}


def test_a_step_in_the_backward_pass_that_does_not_fit_is_not_halved(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        trained(tmp_path, lambda probe: probe.run(), budget=3, in_backward=True)


def test_a_probe_leaves_no_gradient_no_state_and_the_same_random_state(tmp_path: Path) -> None:
    def look(probe: Probe) -> None:
        before = torch.get_rng_state()
        probe.run()
        assert torch.equal(before, torch.get_rng_state())
        assert not probe.optimizer.state
        assert all(parameter.grad is None for parameter in probe.gradients.model.parameters())
        assert {group["lr"] for group in probe.optimizer.param_groups} == {1e-2}

    trained(tmp_path, look)


@pytest.mark.parametrize(("name", "kept"), [("adamw_8bit", "state1"), ("paged_adamw_8bit", "remainder")])
def test_micro_batches_are_probed_with_optimizer_state(name: str, kept: str, tmp_path: Path) -> None:
    """As in all steps except the first. Of paged state only the part in torch's pool."""
    process_overhead: list[bool] = []

    def look(probe: Probe) -> None:
        whole = probe.gradients.forward_backward

        def spied(*of: Any) -> torch.Tensor:
            matrices = [parameter for parameter in probe.gradients.model.parameters() if parameter.ndim > 1]
            process_overhead.append(all(kept in probe.optimizer.state.get(matrix, {}) for matrix in matrices))
            return whole(*of)

        probe.gradients.forward_backward = spied  # type: ignore[method-assign, assignment]
        probe.run()
        probe.gradients.forward_backward = whole  # type: ignore[method-assign]

    trained(tmp_path, look, name, dtype=torch.bfloat16)
    assert process_overhead and all(process_overhead)


def test_micro_batches_that_do_not_fit_are_halved_before_the_first_step(tmp_path: Path) -> None:
    steps: list[int] = []
    _, gradients = trained(tmp_path, lambda probe: (probe.run(), steps.append(probe.gradients.micro_batch)), budget=1)
    assert steps == [1] and gradients.micro_batch == 1


def test_a_few_tokens_recompute_activations_before_they_are_split(tmp_path: Path) -> None:
    """One after another until it fits; the weights are the same."""
    choices, warnings, seen = [ActivationCheckpointing(2), EVERY_LAYER], list[tuple[str, str]](), list[ProbeResult]()
    plain, _ = trained(tmp_path / "a", lambda probe: probe.run())
    weights, gradients = trained(
        tmp_path / "b", lambda probe: seen.append(probe.run()), recomputing=2, stronger=choices,
        warn=lambda code, text: warnings.append((code, text)),
    )  # fmt: skip
    assert seen[0].checkpointing == EVERY_LAYER and choices == [] and gradients.micro_batch == 4
    assert [code for code, _ in warnings] == ["memory.checkpointing_enabled"] * 2
    for expected, actual in zip(plain, weights, strict=True):
        torch.testing.assert_close(expected, actual)


def test_rows_are_split_if_recomputing_does_not_help(tmp_path: Path) -> None:
    _, gradients = trained(tmp_path, lambda probe: probe.run(), budget=1, stronger=[EVERY_LAYER])
    assert gradients.micro_batch == 1 and sum(map(recomputes, gradients.model.modules())) == 2


def test_less_headroom_than_needed_recomputes_activations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resident set of this process cannot be set, so its measurement is simulated."""
    measure = Meters.peak_of

    def peak_of(meters: Meters, work: Callable[[], Any]) -> int:
        measure(meters, work)
        model = probes[-1].gradients.model
        return 100 - 40 * sum(map(recomputes, model.modules()))

    probes: list[Probe] = []
    monkeypatch.setattr(Meters, "peak_of", peak_of)
    monkeypatch.setattr("engine.memory.probe.available_memory", lambda meters: 50)
    trained(
        tmp_path,
        lambda probe: (probes.append(probe), probe.run())[1],
        stronger=[ActivationCheckpointing(2), EVERY_LAYER],
    )
    assert probes[0].enabled == EVERY_LAYER and probes[0].gradients.micro_batch == 4


def test_one_row_that_does_not_fit_ends_the_run_before_training(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        trained(tmp_path, lambda probe: probe.run(), budget=0)


def test_on_a_cpu_what_is_predicted_not_to_fit_is_not_run(tmp_path: Path) -> None:
    tried: list[int] = []

    def fits(micro_batch: int, limit: int) -> bool:
        tried.append(micro_batch)
        return micro_batch <= 2

    _, gradients = trained(tmp_path, lambda probe: probe.run(), fits=fits)
    assert tried == [4, 2] and gradients.micro_batch == 2


def test_an_evaluation_that_cannot_fit_ends_the_run_before_training(tmp_path: Path) -> None:
    def evaluate() -> None:
        raise OutOfMemory("not one row fits while measuring the held-out loss")

    with pytest.raises(OutOfMemory, match="held-out"):
        trained(tmp_path, lambda probe: probe.run(), evaluate=evaluate)


@pytest.mark.parametrize("start", [0, 3, 11])
@pytest.mark.parametrize("packing", [LAYOUT, Packing("packed", 60)], ids=["padded", "packed"])
def test_the_step_with_the_largest_micro_batch_is_found(start: int, packing: Packing) -> None:
    sampler = BatchSampler.of(len(ROWS), 3, 2, None, 1)
    longest = longest_step(ROWS, sampler, start, 2, packing)

    def largest(step: list[Row]) -> int:
        return max(relative_memory(group, packing) for group in micro_batches(step, 2, packing))

    steps = [[ROWS[number] for number in sampler.indices(step)] for step in range(start, sampler.steps)]
    assert largest(longest) == max(map(largest, steps))


@pytest.mark.parametrize(("batch", "most", "rows"), [(16, 16, 16), (16, 11, 8), (16, 5, 4), (16, 1, 1), (7, 6, 4)])
def test_a_smaller_micro_batch_needs_no_more_micro_batches(batch: int, most: int, rows: int) -> None:
    assert balanced_micro_batch(batch, most) == rows
    assert math.ceil(batch / rows) == math.ceil(batch / most)


def test_a_real_run_is_the_same_with_and_without_probe(tmp_path: Path) -> None:
    runs = {}
    for probe in ("true", "false"):
        folder = tmp_path / probe
        values = (f"train.probe={probe}", "adapter.dropout=0.1", "evaluation.forgetting_text=none")
        settings = [word for value in values for word in ("--set", value)]
        assert ftbench("run", "demo-lora", *WHOLE, *settings, "--runs", str(folder)).returncode == 0
        (runs[probe],) = folder.iterdir()
    with_it, without = ([e for e in events_of(run) if e["type"] in ("step", "plan")] for run in runs.values())
    losses = [[event["loss"] for event in events if event["type"] == "step"] for events in (with_it, without)]
    assert losses[0] == losses[1] and len(losses[0]) == 4
    first, second = (event for event in with_it if event["type"] == "plan")
    assert [prediction["tier"] for prediction in first["predictions"]] == ["formula", "dry run"]
    *predicted, measured = second["predictions"]
    assert predicted == first["predictions"] and all(prediction["training"] > 0 for prediction in predicted)
    assert measured["tier"] == "probe" and measured["training"] > 0 and second["probe_seconds"] > 0
    result = msgspec.json.decode((runs["true"] / "result.json").read_bytes(), type=Result)
    assert [prediction.tier for prediction in result.predicted] == ["formula", "dry run", "probe"]
    assert result.peak_training_bytes and result.peak_training_bytes > 0
    plain = msgspec.json.decode((runs["false"] / "result.json").read_bytes(), type=Result)
    assert [prediction.tier for prediction in plain.predicted] == ["formula"]
