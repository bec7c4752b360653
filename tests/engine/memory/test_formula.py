"""The formula: fast, with the trainer's micro-batches, and equal to numbers computed by hand."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

import pytest
from imported import HEAVY, loaded_by

from engine.config.errors import UserError
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.data.rows import Row
from engine.memory.formula import activations
from engine.memory.formula.architecture import read_architecture
from engine.memory.formula.estimate import PARTS, StepShape
from engine.memory.formula.formula import formula
from engine.training import batches
from engine.training.batches import collate

LLAMA_8B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
ROWS = StepShape(count=16, length=1024, answer=256)


def config(method: Any, **settings: Any) -> Config:
    named = {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(Preset("test", {"train.micro_batch": 1, **named}), method).config


def test_the_formula_imports_nothing_heavy() -> None:
    assert not loaded_by("import engine.memory.formula.formula") & set(HEAVY)


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_an_8b_model_has_its_published_parameters_with_every_method(method: Any) -> None:
    assert formula(config(method), LLAMA_8B, "cuda", ROWS).parameters == pytest.approx(8_030_261_248, rel=1e-4)


def test_rank_16_on_every_linear_layer_of_8b_trains_42_million() -> None:
    assert formula(config("lora"), LLAMA_8B, "cuda", ROWS).trainable == 41_943_040


def test_nf4_takes_the_bits_in_the_paper() -> None:
    def bits(double: bool) -> float:
        estimate = formula(config("qlora", quantization__double=double), LLAMA_8B, "cuda", ROWS)
        rest = 2 * 128256 * 4096 * 2 + 65 * 4096 * 2  # embeddings, head and norms in bf16
        return 8 * (estimate.training.parts["weights"] - rest) / (8_030_261_248 - 2 * 128256 * 4096 - 65 * 4096)

    assert bits(double=True) == pytest.approx(4.127, abs=0.001)
    assert bits(double=False) == pytest.approx(4.5, abs=0.001)


@pytest.mark.parametrize(("name", "each"), [("adamw", 8), ("adamw_8bit", 2 + 8 / 256)])
@pytest.mark.parametrize(("rounding", "remainder"), [("remainder", 2), ("stochastic", 0)])
def test_bf16_weights_cost_state_and_remainder(name: str, each: float, rounding: str, remainder: int) -> None:
    estimate = formula(config("full", optimizer__name=name, optimizer__rounding=rounding), LLAMA_8B, "cuda", ROWS)
    assert estimate.static == pytest.approx(estimate.parameters * (2 + each + remainder), rel=1e-6)


def test_parts_sum_up_and_have_known_names() -> None:
    for method, checkpointing in itertools.product(("qlora", "lora", "full"), (True, False)):
        estimate = formula(config(method, train__gradient_checkpointing=checkpointing), LLAMA_8B, "cuda", ROWS)
        for peak in (estimate.training, estimate.evaluation):
            assert sum(peak.parts.values()) == peak.total
            assert set(peak.parts) <= set(PARTS)


def test_a_change_that_should_save_memory_does() -> None:
    def peak(method: str, **settings: Any) -> int:
        return formula(config(method, **settings), LLAMA_8B, "cuda", ROWS).training.total

    assert peak("qlora") < peak("lora") < peak("full")
    assert peak("lora", train__gradient_checkpointing=True) < peak("lora", train__gradient_checkpointing=False)
    assert peak("full", optimizer__name="adamw_8bit") < peak("full", optimizer__name="adamw")


def test_three_methods_take_less_than_a_frame() -> None:
    formula(config("lora"), LLAMA_8B, "cuda", ROWS)
    configs = [config(method) for method in ("qlora", "lora", "full")]
    started = time.process_time()
    for configuration in configs:
        formula(configuration, LLAMA_8B, "cuda", ROWS)
    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("wanted", ["auto", "packed", "padded"])
def test_micro_batches_are_those_of_the_trainer(device: Any, wanted: str) -> None:
    for count, length, most in itertools.product((1, 6, 32), (48, 300, 5000), (1, 4, 32)):
        row = Row([1] * length, [-100] * (length - 7) + [1] * 7, [1], "", "", False)
        real = batches.choose_packing([row] * count, wanted, device, varlen=False)
        largest = next(batches.micro_batches([row] * count, most, real))
        ours = activations.largest_micro_batch_shape(
            StepShape(count=count, length=length, answer=7), most, wanted, device
        )
        assert (ours.packing, ours.rows, ours.several) == (real.mode, len(largest), count > len(largest))


@pytest.mark.parametrize("wanted", ["auto", "packed", "shared_prefix", "padded"])
@pytest.mark.parametrize(("count", "length", "shared", "most"), [(6, 48, 20, 6), (32, 300, 200, 32), (32, 300, 0, 8)])
def test_with_segments_too_and_with_as_many_tokens(
    wanted: str, count: int, length: int, shared: int, most: int
) -> None:
    labels = [-100] * (length - 7) + [1] * 7
    made = [[0] * shared + [1 + number] * (length - shared) for number in range(count)]
    rows = [Row(ids, labels, [1], "", "", False) for ids in made]
    real = batches.choose_packing(rows, wanted, "cpu", varlen=True, segments=True)
    largest = next(batches.micro_batches(rows, most, real))
    shape = StepShape(count=count, length=length, answer=7, shared=shared)
    ours = activations.largest_micro_batch_shape(shape, most, wanted, "cpu", segments=True)
    assert (ours.packing, ours.rows, ours.masked) == (real.mode, len(largest), False)
    assert ours.tokens == collate(largest, real, 0, "cpu").tokens


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("wanted", ["packed", "padded"])
def test_held_out_batches_are_those_of_the_worker(device: Any, wanted: str) -> None:
    for length, answer, vocabulary in itertools.product((48, 900), (7, 47), (512, 128_256, 5_000_000)):
        row = Row([1] * length, [-100] * (length - answer) + [1] * answer, [1], "", "", False)
        real = batches.choose_packing([row], wanted, device, varlen=False)
        largest = next(batches.held_out_batches([row] * 64, real, device, vocabulary, answers_only=True))
        rows = StepShape(count=64, length=length, answer=answer)
        assert activations.held_out_shape(rows, wanted, device, vocabulary).rows == len(largest)


def test_a_held_out_batch_on_a_gpu_has_less_than_a_gibibyte_of_logits() -> None:
    """With only a token limit it would have 31 GiB of them."""
    rows = StepShape(count=64, length=1024, answer=1023)
    held_out = formula(config("lora"), {**LLAMA_8B}, "cuda", rows).held_out
    assert held_out and held_out.total - formula(config("lora"), LLAMA_8B, "cuda", rows).static < 4e9


@pytest.mark.parametrize(
    ("settings", "table"),
    [
        ({"evaluation__max_new_tokens": 4096}, {}),
        ({"evaluation__batch": 512, "evaluation__max_new_tokens": 1024}, {}),
        ({}, {"num_key_value_heads": 32}),
    ],
)
def test_longer_answers_of_more_rows_and_heads_take_more(settings: dict[str, Any], table: dict[str, Any]) -> None:
    few, many = (
        formula(config("lora"), LLAMA_8B, "cuda", ROWS),
        formula(config("lora", **settings), {**LLAMA_8B, **table}, "cuda", ROWS),
    )
    assert few.answering and many.answering and many.answering.total > few.answering.total
    assert many.evaluation.total == max(many.answering.total, many.held_out.total if many.held_out else 0)


def test_without_generation_there_is_no_generation_memory() -> None:
    for settings in ({"evaluation__metric": "loss"}, {"evaluation__when": "never"}):
        assert formula(config("lora", **settings), LLAMA_8B, "cuda", ROWS).answering is None


def test_gpt2s_configuration_names_are_read() -> None:
    shape = read_architecture(
        {"model_type": "gpt2", "n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257}
    )
    assert dataclasses.astuple(shape)[:8] == (12, 768, 3072, 12, 12, 64, 50257, 1024)
    assert shape.tied
    assert not shape.gated


@pytest.mark.parametrize("table", [{}, {"hidden_size": 64}, {"hidden_size": "64", "num_hidden_layers": 2}])
def test_a_configuration_that_is_not_a_decoders_is_refused(table: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        read_architecture(table)
    assert error.value.code == "model.config_incomplete"
