"""Halving the micro-batch on out-of-memory repeats the step; bf16 training loses no small update."""

from __future__ import annotations

import functools
import gc
import io
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from command import MICRO, ON_SMALL, events_of
from forked import ftbench
from small_training import Steps, make_training
from transformers import LlamaConfig, LlamaForCausalLM

from engine.config import schema
from engine.data.prepare import prepare
from engine.methods.machine import Machine, compute_deterministically, is_out_of_memory
from engine.methods.model_source import load_tokenizer
from engine.methods.optimizers import make_optimizer, paged_bytes, rounded_stochastically
from engine.training import batches as batches_module
from engine.training import gradients as gradients_module
from engine.training.batches import BatchSampler, Collator, Packing, collate_on_host
from engine.training.fit import fit
from engine.training.guards import OutOfMemory, first_line, free_memory

CPU = Machine("cpu", "CPU", False, False)
NVML_REFUSES = RuntimeError(
    'NVML_SUCCESS == r INTERNAL ASSERT FAILED at "/pytorch/c10/cuda/CUDACachingAllocator.cpp":1131, please report a bug'
)
"""What torch raises instead of its out-of-memory error where NVML does not answer."""


class Tight(LlamaForCausalLM):
    """Simulates a GPU of limited size: more rows than `room` do not fit."""

    room = 99
    pad = -1
    error: Exception = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def forward(self, input_ids: Any = None, position_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:
        if int(((position_ids == 0) & (input_ids != self.pad)).sum()) > self.room:
            raise self.error
        return super().forward(input_ids=input_ids, position_ids=position_ids, logits_to_keep=logits_to_keep, **rest)


def train(room: int, tmp_path: Path) -> tuple[dict[str, torch.Tensor], list[int]]:
    """Three steps of eight rows; returns the weights and each reduced micro-batch size."""
    config = schema.Config(method="full", train=schema.Train(learning_rate=1e-3, batch=8))
    tokenizer = load_tokenizer(config.model)
    rows = prepare(schema.Data(max_rows=24), 512, tokenizer).train
    torch.manual_seed(0)
    model = Tight(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                    num_attention_heads=4)
    )  # fmt: skip
    model.room, model.pad = room, tokenizer.pad_token_id
    halved: list[int] = []
    sampler = BatchSampler.of(len(rows), 8, 1, 3, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    tmp_path.mkdir(exist_ok=True)
    training = make_training(
        model, rows, sampler, config, optimizer, tmp_path / "checkpoints", packing=Packing("packed", 100_000),
        micro_batch=8, pad=tokenizer.pad_token_id, halved=halved.append,
    )  # fmt: skip
    fit(training, Steps())
    return {name: value.clone() for name, value in model.state_dict().items()}, halved


@pytest.mark.parametrize("error", [Tight.error, NVML_REFUSES])
def test_halving_keeps_the_effective_batch(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tight, "error", error)
    roomy, none = train(99, tmp_path)
    tight, halved = train(2, tmp_path)
    assert (none, halved) == ([], [4, 2])
    for name, value in roomy.items():
        torch.testing.assert_close(tight[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("room", [99, 2], ids=["whole", "halved"])
def test_batches_that_are_collated_in_a_thread_are_the_same(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after the micro-batch was halved, which makes the expected one of no use; bit for bit."""
    plain, _ = train(room, tmp_path / "plain")
    made: list[str] = []

    def collated(*given: Any) -> Any:
        made.append(threading.current_thread().name)
        return collate_on_host(*given)

    monkeypatch.setattr(gradients_module, "Collator", functools.partial(Collator, in_thread=True))
    monkeypatch.setattr(batches_module, "collate_on_host", collated)
    threaded, _ = train(room, tmp_path / "threaded")
    assert all(torch.equal(value, threaded[name]) for name, value in plain.items())
    in_thread = sum(name.startswith("collate") for name in made)
    # Of three steps only the first micro-batch of all is not expected; with halving also that after each halving, and
    # what the thread had begun before it is not used.
    assert len(made) - in_thread == (1 if room == 99 else 3)
    assert in_thread == 2 if room == 99 else in_thread >= 11


def test_a_batch_that_cannot_be_collated_raises_where_it_is_asked_for() -> None:
    collator = Collator(Packing("packed", 100), 0, "cpu", in_thread=True)
    collator.expect(1, lambda: (_ for _ in ()).throw(MemoryError("no memory")))
    with pytest.raises(MemoryError, match="no memory"):
        collator.take(1, [])


def test_one_row_that_does_not_fit_is_out_of_memory(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory):
        train(0, tmp_path)


def weight_after(dtype: torch.dtype, name: str, rounding: str = "remainder", steps: int = 400) -> float:
    """A weight of 1 with a constant gradient and AdamW at learning rate 1e-4: -1e-4 per step."""
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
    settings = schema.Optimizer(name=name, rounding=rounding)
    config = schema.Config(method="full", train=schema.Train(learning_rate=1e-4), optimizer=settings)
    optimizer, _ = make_optimizer([weight], config, CPU, lambda code, text: None)
    for _ in range(steps):
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
    return float(weight.float().mean())


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
@pytest.mark.parametrize("rounding", ["remainder", "stochastic"])
def test_small_updates_survive_in_bf16(name: str, rounding: str) -> None:
    """Uncompensated, 1 - 1e-4 rounds to 1 in bf16 and the weight never moves."""
    weight = weight_after(torch.bfloat16, name, rounding)
    assert weight == pytest.approx(weight_after(torch.float32, name), abs=4e-3)
    assert weight < 0.97


def test_stochastic_rounding_has_the_exact_expectation_and_no_state() -> None:
    below, above = torch.tensor([1.0, -2.0]), torch.tensor([1 + 2**-7, -2 - 2**-6])
    exact = (below + 0.25 * (above - below)).repeat(40_000, 1)
    torch.manual_seed(0)
    rounded = rounded_stochastically(exact)
    assert ((rounded == below) | (rounded == above)).all()
    torch.testing.assert_close((rounded == above).float().mean(0), torch.full((2,), 0.25), atol=0.01, rtol=0)
    assert torch.equal(rounded_stochastically(above), above)
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    config = schema.Config(method="full", optimizer=schema.Optimizer(name="adamw_8bit", rounding="stochastic"))
    optimizer, name = make_optimizer([weight], config, CPU, lambda code, text: None)
    weight.grad = torch.full_like(weight, 0.01)
    optimizer.step()
    assert "stochastic" in name and "remainder" not in optimizer.state[weight]
    assert weight.dtype == weight.grad.dtype == torch.bfloat16


def test_the_uncompensated_optimizer_would_have_lost_them() -> None:
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = torch.optim.AdamW([weight], lr=1e-4, weight_decay=0)
    for _ in range(400):
        weight.grad = torch.full_like(weight, 0.01)
        optimizer.step()
    assert float(weight.float().mean()) == 1.0


def test_a_paged_optimizer_on_a_cpu_is_a_warning() -> None:
    said: list[str] = []
    config = schema.Config(method="qlora", optimizer=schema.Optimizer(name="paged_adamw_8bit"))
    _, name = make_optimizer(
        [torch.nn.Parameter(torch.ones(64, 64))], config, CPU, lambda code, text: said.append(text)
    )
    assert name == "adamw_8bit" and "paged" in said[0]


def stepped(name: str, machine: Machine = CPU) -> torch.optim.Optimizer:
    """The optimizer after one step over a bf16 matrix."""
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = optimizer_over(weight, name, machine)
    weight.grad = torch.full_like(weight, 0.01)
    optimizer.step()
    return optimizer


def optimizer_over(weight: torch.nn.Parameter, name: str, machine: Machine = CPU) -> torch.optim.Optimizer:
    config = schema.Config(method="full", optimizer=schema.Optimizer(name=name))
    return make_optimizer([weight], config, machine, lambda code, text: None)[0]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit"])
def test_a_checkpoints_state_is_moved_to_the_weights_device(name: str) -> None:
    """The Trainer loads it on the CPU. `meta` stands for a GPU."""
    saved = stepped(name).state_dict()
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16, device="meta"))
    optimizer = optimizer_over(weight, name)
    optimizer.load_state_dict(saved)
    tensors = {key: value for key, value in optimizer.state[weight].items() if isinstance(value, torch.Tensor)}
    assert "remainder" in tensors and all(value.device.type == "meta" for value in tensors.values())


def test_paged_state_is_paged_again_after_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine("cuda", "a GPU", True, False)
    before = stepped("paged_adamw_8bit", gpu)
    for state in before.state.values():
        for key in ("state1", "state2"):
            state[key].is_paged = True  # as bitsandbytes marks it, and pickle keeps it
    file = io.BytesIO()
    torch.save(before.state_dict(), file)
    file.seek(0)
    weight = torch.nn.Parameter(torch.ones(64, 64, dtype=torch.bfloat16))
    optimizer = optimizer_over(weight, "paged_adamw_8bit", gpu)

    def managed(parameter: torch.nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
        """Replaces CUDA unified memory."""
        buffer = torch.zeros_like(parameter, dtype=dtype)
        buffer.is_paged, buffer.is_managed = True, True
        return buffer

    monkeypatch.setattr(optimizer, "get_state_buffer", managed)
    optimizer.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    (was,), now = before.state.values(), optimizer.state[weight]
    for key in ("state1", "state2"):
        assert getattr(now[key], "is_managed", False) and torch.equal(now[key], was[key])
    assert paged_bytes(optimizer) == 2 * weight.numel()


def test_the_sampler_visits_every_row_once_an_epoch() -> None:
    sampler = BatchSampler.of(rows=10, batch=4, epochs=2, steps=None, seed=5)
    assert sampler.steps == 6
    first = [row for step in range(3) for row in sampler.indices(step)]
    second = [row for step in range(3, 6) for row in sampler.indices(step)]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_a_cublas_allocation_failure_is_out_of_memory() -> None:
    assert is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))
    assert not is_out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


def test_reference_cycles_are_collected_before_a_smaller_attempt() -> None:
    class Holder:
        pass

    gc.disable()
    try:
        holder = Holder()
        holder.itself, seen = holder, weakref.ref(holder)  # type: ignore[attr-defined]
        del holder
        free_memory()
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "MemoryError"),
        (torch.OutOfMemoryError("CUDA out of memory.\nMore"), "CUDA out of memory."),
        (NVML_REFUSES, "CUDA out of memory (NVML reports no details on this GPU)"),
    ],
)
def test_an_out_of_memory_error_has_a_first_line(error: Exception, text: str) -> None:
    assert is_out_of_memory(error) and first_line(error) == text


def test_after_mixed_precision_training_the_model_is_evaluated_without_autocast(tmp_path: Path) -> None:
    """Autocast ends with training: base and tuned model are evaluated in the same precision."""
    config = schema.Config(method="full", train=schema.Train(batch=8, precision="mixed"))
    tokenizer = load_tokenizer(config.model)
    rows = prepare(schema.Data(max_rows=8), 512, tokenizer).train
    shape = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=4)  # fmt: skip
    model, sampler = LlamaForCausalLM(shape), BatchSampler.of(len(rows), 8, 1, 1, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    training = make_training(
        model, rows, sampler, config, optimizer, tmp_path / "checkpoints", packing=Packing("packed", 100_000),
        micro_batch=8, pad=tokenizer.pad_token_id,
    )  # fmt: skip
    computed: list[torch.dtype] = []
    model.model.layers[0].mlp.register_forward_hook(lambda module, given, output: computed.append(output.dtype))
    fit(training, Steps())
    assert {*computed} == {torch.bfloat16} and model.config.use_cache  # which is saved with the model
    alike = LlamaForCausalLM(shape)
    alike.load_state_dict(model.state_dict())
    ids = torch.tensor([rows[0].input_ids])
    with torch.no_grad():
        assert torch.equal(model.eval()(input_ids=ids).logits, alike.eval()(input_ids=ids).logits)


@pytest.fixture
def torch_settings() -> Iterator[None]:
    """Restores torch's settings of determinism."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.utils.deterministic.fill_uninitialized_memory = True


def test_determinism_is_asked_of_every_library(torch_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    compute_deterministically(CPU)
    assert not torch.are_deterministic_algorithms_enabled() and "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    compute_deterministically(Machine("cuda", "a GPU", True, False))
    assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and os.environ["FLASH_ATTENTION_DETERMINISTIC"] == "1"
    assert not torch.utils.deterministic.fill_uninitialized_memory


def test_a_run_with_deterministic_algorithms_repeats_its_losses(tmp_path: Path) -> None:
    settings = [*MICRO, *ON_SMALL, "--set", "train.deterministic=true", "--set", "evaluation.when=never"]
    losses = []
    for name in ("a", "b"):
        done = ftbench("run", "demo-lora", *settings, "--runs", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        events = events_of(next((tmp_path / name).iterdir()))
        losses.append([event["loss"] for event in events if event["type"] == "step"])
    assert losses[0] == losses[1] != []
