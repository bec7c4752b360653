"""Checkpoints written in a thread: training continues, nothing is lost, and errors are raised as by saving."""

from __future__ import annotations

import errno
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from engine.config import schema
from engine.config.files import file_sha256
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.memory.formula.formula import formula
from engine.methods.model_source import config_of
from engine.training import checkpoints, training_state
from engine.training.checkpoints import (
    REQUIRED,
    SavedCheckpoint,
    latest_complete,
    load_safetensors,
    stored_tensors,
    write_pickle,
    write_tensors,
)
from engine.training.guards import DiskFull, free_memory
from engine.training.training_state import CheckpointWriter, HostCopy

SMALL = [name for name in REQUIRED if name != "optimizer.pt"]


@dataclass
class Training:
    """Weights and optimizer state that change, and a writer of their checkpoints."""

    folder: Path
    room: int = 1 << 30
    saved: list[SavedCheckpoint] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weight, self.state = torch.zeros(1000), torch.zeros(1000)
        copy = HostCopy(lambda: self.room, lambda code, text: self.warnings.append(code))
        self.writer = CheckpointWriter(self.folder, 2, self.saved.append, copy)

    def step(self) -> None:
        self.weight += 1
        self.state += 1

    def save(self, step: int, continues: bool = True) -> None:
        self.writer.save(step, self._write_small, self._contents, continues)

    def _write_small(self, folder: Path) -> None:
        for name in SMALL:
            (folder / name).write_text(name)

    def _contents(self) -> dict[str, Any]:
        return {"model.safetensors": {"w": self.weight}, "optimizer.pt": {"state": {0: {"m": self.state}}}}


@pytest.fixture
def training(tmp_path: Path) -> Training:
    return Training(tmp_path / "checkpoints")


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The optimizer's state is not written until this event is set."""
    event = threading.Event()

    def write(path: Path, content: Any) -> Any:
        assert event.wait(60)
        return write_pickle(path, content)

    monkeypatch.setattr(training_state, "write_pickle", write)
    yield event
    event.set()


def values(saved: SavedCheckpoint) -> set[float]:
    """All values of the weights and the optimizer's state of a checkpoint."""
    state = torch.load(saved.folder / "optimizer.pt", weights_only=True)["state"][0]["m"]
    return {*load_file(saved.folder / "model.safetensors")["w"].tolist(), *state.tolist()}


def test_steps_advance_while_a_checkpoint_of_an_earlier_one_is_written(
    training: Training, slow: threading.Event
) -> None:
    with training.writer:
        for step in (1, 2, 3):
            training.step()
            if step == 1:
                training.save(step)
            training.writer.report()
            assert training.saved == []
            assert latest_complete(training.folder) == (None, [])
        slow.set()
    (saved,) = training.saved
    assert (saved.step, values(saved)) == (1, {1.0})
    assert saved.blocked < saved.seconds
    assert latest_complete(training.folder)[0] is not None


def test_the_next_checkpoint_waits(training: Training, slow: threading.Event) -> None:
    with training.writer:
        training.step()
        training.save(1)
        threading.Timer(0.2, slow.set).start()
        training.step()
        training.save(2)
        assert [saved.step for saved in training.saved] == [1]
        training.step()
    assert [values(saved) for saved in training.saved] == [{1.0}, {2.0}]


def test_the_memory_of_a_copy_is_reused(training: Training) -> None:
    copy, places = HostCopy(lambda: 1 << 20, lambda code, text: None), []
    for value in (1.0, 2.0):
        training.step()
        copied = (copy.of(training._contents()) or {})["model.safetensors"]["w"]
        assert copied.tolist() == [value] * 1000
        places.append(copied.data_ptr())
    assert places[0] == places[1] != training.weight.data_ptr()
    copy.close()


@pytest.mark.parametrize("room", [0, 1 << 30])
def test_the_last_checkpoint_and_one_without_room_are_complete_at_once(room: int, training: Training) -> None:
    training.room = room
    with training.writer:
        training.step()
        training.save(1, continues=room == 0)
        assert [saved.step for saved in training.saved] == [1]
        training.save(2, continues=room == 0)
    assert training.warnings == ([] if room else ["checkpoint.synchronous"])
    assert training.saved[1].blocked >= training.saved[1].seconds


def test_an_error_of_the_thread_is_raised_after_the_next_step_and_keeps_the_last_checkpoint(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(path: Path, content: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull, match=r"checkpoint at step 2\b"), training.writer:
        training.save(1)
        training.writer.finish()
        monkeypatch.setattr(training_state, "write_pickle", no_space)
        training.save(2)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            training.writer.report()
    assert [path.name for path in training.folder.iterdir()] == ["step-1"]


def test_nothing_is_left_where_no_thread_can_be_started(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("can't start new thread")

    def refuse(thread: threading.Thread) -> None:
        raise error

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with training.writer:
        with pytest.raises(RuntimeError) as raised:
            training.save(1)
        assert raised.value is error
        assert list(training.folder.iterdir()) == []


def test_an_error_of_training_waits_for_the_checkpoint_and_is_not_replaced(
    training: Training, slow: threading.Event
) -> None:
    threading.Timer(0.2, slow.set).start()
    with pytest.raises(ZeroDivisionError), training.writer:
        training.save(1)
        raise ZeroDivisionError
    assert [saved.step for saved in training.saved] == [1]


def test_files_are_hashed_while_they_are_written_and_not_read_again(
    training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    digest = checkpoints.hashlib.file_digest

    def recorded(file: Any, name: str) -> Any:
        read.append(Path(file.name).name)
        return digest(file, name)

    monkeypatch.setattr(checkpoints.hashlib, "file_digest", recorded)
    with training.writer:
        training.save(1)
    assert sorted(read) == sorted(SMALL)
    monkeypatch.undo()
    assert latest_complete(training.folder)[0] is not None  # with the hashes of what is on disk


TENSORS = {
    "float": torch.randn(3, 5),
    "bf16": torch.randn(7).bfloat16(),
    "scalar": torch.tensor(2.0),
    "empty": torch.zeros(0, 4),
    "transposed": torch.randn(4, 3).T,
    "int": torch.arange(5),
    "uint8": torch.arange(3, dtype=torch.uint8),
}


def test_tensors_are_written_byte_for_byte_as_safetensors_does(tmp_path: Path) -> None:
    facts = write_tensors(tmp_path / "own.safetensors", TENSORS)
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "peer", {"format": "pt"})
    assert (tmp_path / "own.safetensors").read_bytes() == (tmp_path / "peer").read_bytes()
    assert facts.sha256 == file_sha256(tmp_path / "peer") and facts.bytes == (tmp_path / "peer").stat().st_size


def test_an_error_of_the_disk_is_raised_instead_of_one_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(file: Any, data: Any) -> int:
        file.error = OSError(errno.EIO, "Input/output error")
        raise file.error

    monkeypatch.setattr(checkpoints.HashingFile, "write", broken)
    with pytest.raises(OSError, match="Input/output error"):
        write_pickle(tmp_path / "optimizer.pt", {"a": torch.zeros(100)})


def llama() -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                    tie_word_embeddings=True)
    )  # fmt: skip


def test_weights_of_a_model_with_tied_ones_are_stored_once_and_loaded(tmp_path: Path) -> None:
    before, after = llama(), llama()
    weights = stored_tensors(before)
    assert set(before.state_dict()) - set(weights) == {"lm_head.weight"}
    write_tensors(tmp_path / "model.safetensors", weights)
    load_safetensors(after, tmp_path / "model.safetensors")
    assert all(torch.equal(tensor, before.state_dict()[name]) for name, tensor in after.state_dict().items())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda weights: weights.popitem(), KeyError),
        (lambda weights: weights.update(other=torch.zeros(1)), KeyError),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(1)}), ValueError),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(32).bfloat16()}), ValueError),
    ],
)
def test_weights_of_another_model_are_not_loaded(
    change: Callable[[dict[str, torch.Tensor]], object], error: type[Exception], tmp_path: Path
) -> None:
    weights = stored_tensors(llama())
    change(weights)
    write_tensors(tmp_path / "model.safetensors", weights)
    with pytest.raises(error):
        load_safetensors(llama(), tmp_path / "model.safetensors")


def test_after_training_nothing_keeps_optimizer_state_and_copy(training: Training) -> None:
    with training.writer:
        training.save(1)
    seen = [weakref.ref(training.state), weakref.ref(training.writer)]
    training.state = training.writer = None  # type: ignore[assignment]
    free_memory()
    assert [reference() for reference in seen] == [None, None]


def test_the_plan_counts_the_copy_in_the_memory_that_holds_it() -> None:
    shape = config_of(schema.Model()).to_dict()
    rows = StepShape(count=4, length=64, answer=8)

    def estimate(device: Literal["cpu", "cuda"], method: str, setting: bool | Literal["auto"]) -> MemoryEstimate:
        return formula(schema.Config(method=method, train=schema.Train(async_checkpoints=setting)), shape, device, rows)

    for method in ("full", "lora"):
        plain, copied = (estimate("cpu", method, setting) for setting in (False, True))
        assert 0 < copied.host_copy == copied.training.total - plain.training.total
        assert copied.training.total == sum(copied.training.parts.values())
        on_gpu, without = (estimate("cuda", method, setting) for setting in (True, False))
        assert on_gpu.host_copy > 0 and on_gpu.training == without.training
    copying = [
        estimate(device, method, "auto").host_copy > 0 for device in ("cpu", "cuda") for method in ("lora", "full")
    ]
    assert copying == [False, False, False, True]


def test_a_failed_pinning_does_not_fail_the_next_kernel(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for CUDA, whose last error stays set until a check of torch reads it."""
    last_error: list[str] = []
    zeros = torch.zeros

    def pin(contents: Any) -> Any:
        last_error.append("out of memory")
        raise RuntimeError("Registering memory failed with cudaError: 2.")

    def kernel(*size: Any, **how: Any) -> torch.Tensor:
        if how.pop("device", None) == "cuda" and last_error:
            raise RuntimeError(f"CUDA error: {last_error.pop()}")
        return zeros(*size, **how)

    stager = SimpleNamespace(stage=pin, close=lambda: None)
    monkeypatch.setattr(training_state, "DefaultStager", lambda options: stager)
    monkeypatch.setattr(torch, "zeros", kernel)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    training.save(1)
    assert last_error == [] and training.warnings == ["checkpoint.synchronous"]
    assert [checkpoint.step for checkpoint in training.saved] == [1]
