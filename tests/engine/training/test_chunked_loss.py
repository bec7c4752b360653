"""Head and cross entropy in chunks equal whole logits, for every architecture, method and data type."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import peft
import pytest
import torch
import transformers
from model_shapes import SHAPES, VOCABULARY
from scaled_logits import SCALED, assert_scaling_is_found, large_logits
from test_loss import ROWS
from tiny_configs import family_config
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config import device_defaults
from engine.memory.dry_run.dry_run import enable_autocast
from engine.training import loss as loss_module
from engine.training.batches import Packing, collate
from engine.training.loss import (
    ChunkedCrossEntropy,
    HeadInput,
    Scaling,
    accumulates_in_float32,
    answer_logits,
    answer_nll,
    answer_weights,
    chunkable_head,
    logit_chunks,
    summed_loss,
    supports_logits_to_keep,
)

PACKINGS = [Packing("packed", 1000), Packing("padded", 1000)]
FACTORS = [1.0, 0.0, 2.5, 0.5]
ALL_SHAPES = {**SHAPES, **{name: shape for name, (shape, _) in SCALED.items()}}


@pytest.fixture(params=[7 * VOCABULARY, 1 << 23], ids=["chunks", "one-chunk"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks of 7 positions, which do not divide the number of positions, or one."""
    monkeypatch.setitem(device_defaults.CHUNK_ELEMENTS, "cpu", request.param)
    monkeypatch.setitem(device_defaults.SHAPE_MULTIPLE, "cpu", 1 if request.param < 1 << 20 else 64)


def made(name: str, dtype: torch.dtype = torch.float32) -> Any:
    return large_logits(ALL_SHAPES[name], dtype)


def whole(model: Any, batch: Any, divisor: float) -> torch.Tensor:
    """The loss by torch, from all logits."""
    logits, targets = answer_logits(model, batch, supports_logits_to_keep(model))
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    weights = answer_weights(batch)
    return (nll if weights is None else nll * weights).sum() / divisor


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
@pytest.mark.parametrize("packing", PACKINGS, ids=lambda packing: packing.mode)
@pytest.mark.parametrize("name", ALL_SHAPES)
def test_loss_and_gradients_are_those_of_whole_logits(name: str, packing: Packing, weighted: bool) -> None:
    model = made(name)
    rows = list(ROWS)
    if weighted:
        rows = [replace(row, weights=[FACTORS[place % 4] for place in range(len(row.input_ids))]) for row in rows]
    batch = collate(rows, packing, 0, "cpu")
    assert chunkable_head(model) is not None
    results: list[tuple[float, dict[str, torch.Tensor]]] = []
    answers_only = supports_logits_to_keep(model)
    for loss in (whole(model, batch, 3.0), summed_loss(model, batch, answers_only, 3.0)):
        model.zero_grad()
        (loss * 2).backward()
        gradients = {
            key: parameter.grad.clone() for key, parameter in model.named_parameters() if parameter.grad is not None
        }
        results.append((float(loss.detach()), gradients))
    (expected, wanted), (actual, gradients) = results
    assert actual == pytest.approx(expected, rel=1e-5) and gradients.keys() == wanted.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[key], rtol=2e-3, atol=2e-5)
    logits, targets = answer_logits(model, batch, answers_only)
    nll = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none").detach()
    torch.testing.assert_close(answer_nll(model, batch, answers_only), nll, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("name", ["llama", "gemma2", "granite", "falcon_h1"])
def test_in_bf16_it_differs_by_rounding(name: str) -> None:
    model = made(name, torch.bfloat16)
    batch = collate(ROWS, PACKINGS[0], 0, "cpu")
    exact = made(name)
    exact.load_state_dict({key: value.float() for key, value in model.state_dict().items()})
    wanted, actual = whole(exact, batch, 1.0), summed_loss(model, batch, True)
    wanted.backward()
    actual.backward()
    assert float(actual) == pytest.approx(float(wanted), rel=2e-2)
    head, expected = (network.get_output_embeddings().weight.grad.float() for network in (model, exact))
    assert torch.nn.functional.cosine_similarity(head.flatten(), expected.flatten(), dim=0) > 0.98


@pytest.mark.parametrize("name", ALL_SHAPES)
def test_in_mixed_precision_too(name: str) -> None:
    """Autocast starts in the model's forward pass, as accelerate sets it up: chunks from the first loss on."""
    exact, model = made(name), made(name)
    enable_autocast(model)
    assert chunkable_head(model) is not None
    batch = collate(ROWS, PACKINGS[0], 0, "cpu")
    wanted, actual = whole(exact, batch, 1.0), summed_loss(model, batch, supports_logits_to_keep(model))
    wanted.backward()
    actual.backward()
    assert float(actual) == pytest.approx(float(wanted), rel=2e-2)
    head, expected = (network.get_output_embeddings().weight.grad for network in (model, exact))
    assert head.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(head.flatten(), expected.flatten(), dim=0) > 0.98


def test_products_of_a_trained_head_are_added_without_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kernel of CUDA, by a stand-in: the gradient is that of float32 arithmetic, rounded once."""
    hidden, weight = torch.randn(512, 8).bfloat16(), torch.randn(VOCABULARY, 8).bfloat16().requires_grad_()
    targets = torch.arange(512) % VOCABULARY
    monkeypatch.setitem(device_defaults.CHUNK_ELEMENTS, "cpu", 64 * VOCABULARY)
    calls = 0

    def kernel(total: Any, first: Any, second: Any, dtype: Any, *, beta: Any = 1, alpha: Any = 1, out: Any) -> Any:
        nonlocal calls
        calls += 1
        return out.copy_(beta * total + alpha * (first.float() @ second.float()).to(dtype))

    def gradient() -> torch.Tensor:
        weight.grad = None
        ChunkedCrossEntropy.apply(hidden, weight, None, targets, None, 1.0, torch.bfloat16).backward()
        assert weight.grad is not None
        return weight.grad

    rounded = gradient()
    library = torch.library.Library("aten", "IMPL")
    library.impl("addmm.dtype_out", kernel, "CPU")
    monkeypatch.setattr(loss_module, "accumulates_in_float32", lambda device, dtype: True)
    try:
        exact = gradient()
    finally:
        library._destroy()
    assert calls == 8
    logits = (hidden @ weight.detach().T).float()
    probabilities = logits.softmax(-1) - torch.nn.functional.one_hot(targets, VOCABULARY)
    expected = (probabilities.bfloat16().float().T @ hidden.float()).bfloat16()
    assert (exact - expected).abs().max() < 0.1 and (exact != expected).float().mean() < 0.01
    assert (exact - expected).abs().float().mean() < (rounded - expected).abs().float().mean() / 10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cpu_adds_products_of_a_head_as_before(dtype: torch.dtype) -> None:
    assert not accumulates_in_float32("cpu", dtype)


def test_a_frozen_head_has_no_gradient() -> None:
    hidden = torch.randn(5, 8, requires_grad=True)
    weight = torch.randn(VOCABULARY, 8)
    targets = torch.arange(4)
    arguments = (None, targets, None, 1.0, torch.float32)
    ChunkedCrossEntropy.apply(hidden, weight, *arguments).backward()
    assert hidden.grad is not None and hidden.grad[4].abs().sum() == 0  # the last position only pads the shape
    assert weight.grad is None


def test_without_gradients_no_gradient_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChunkedCrossEntropy, "apply", lambda *given: pytest.fail("gradients without need"))
    model, batch = made("llama"), collate(ROWS, PACKINGS[0], 0, "cpu")
    with torch.no_grad():
        assert float(summed_loss(model, batch, True, 2.0)) == pytest.approx(float(whole(model, batch, 2.0)), rel=1e-5)


def test_more_targets_than_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 positions for 3 targets"):
        ChunkedCrossEntropy.apply(
            torch.zeros(2, 8), torch.zeros(9, 8), None, torch.zeros(3).long(), None, 1.0, torch.float32
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SCALED)
def test_the_scaling_of_logits_is_found_by_comparing_them(name: str, dtype: torch.dtype) -> None:
    assert_scaling_is_found(name, dtype, "cpu")


def test_a_setting_that_a_model_does_not_apply_is_ignored() -> None:
    model = made("llama")
    model.config.logits_scaling = 8.0
    head = chunkable_head(model)
    assert head is not None and head.scaling == Scaling()


@pytest.mark.parametrize(("name", "scaling"), [("granite", None), ("llama", Scaling()), ("gemma2", Scaling(cap=30.0))])
def test_a_head_of_zeros_does_not_decide_between_factors(name: str, scaling: Scaling | None) -> None:
    model = made(name)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    head = chunkable_head(model)
    assert (head and head.scaling) == scaling


def test_truncated_logits_are_not_computed_in_chunks() -> None:
    """The dry run has no logits to compare: it reads their number from the configuration."""
    config = family_config("inkling_text", VOCABULARY + 11)
    config.unpadded_vocab_size = VOCABULARY
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    batch = collate(ROWS, PACKINGS[1], 0, "cpu")
    assert answer_logits(model, batch, True)[0].shape[1] == VOCABULARY
    assert float(summed_loss(model, batch, True).detach()) == pytest.approx(float(whole(model, batch, 1.0)), rel=1e-5)
    for unpadded in (VOCABULARY, VOCABULARY + 11, None):
        config.unpadded_vocab_size = unpadded
        with torch.device("meta"):
            model = transformers.AutoModelForCausalLM.from_config(config)
        assert (chunkable_head(model) is None) == (unpadded == VOCABULARY)


class LargestLogits(TorchDispatchMode):
    """Context that records the largest number of positions whose logits an operation returns."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        transposed = func is torch.ops.aten.t.default  # the head's weight
        if isinstance(result, torch.Tensor) and result.shape[-1:] == (VOCABULARY,) and not transposed:
            self.positions = max(self.positions, result.numel() // VOCABULARY)
        return result


@pytest.mark.parametrize("name", ["llama", "gemma2", *SCALED])
def test_logits_are_never_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(device_defaults.CHUNK_ELEMENTS, "cpu", 7 * VOCABULARY)
    model, batch = made(name), collate(ROWS, PACKINGS[0], 0, "cpu")
    model.get_output_embeddings().weight.requires_grad_(False)  # whose gradients may have the shape of logits
    with LargestLogits() as largest:
        summed_loss(model, batch, supports_logits_to_keep(model)).backward()
        answer_nll(model, batch, supports_logits_to_keep(model))
    assert largest.positions == 7 < len(batch.columns)


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_found() -> None:
    model, batch = made("llama"), collate(ROWS, PACKINGS[0], 0, "cpu")
    forward = model.forward

    def doubled(*given: Any, **options: Any) -> Any:
        output = forward(*given, **options)
        output.logits = output.logits * 2
        return output

    model.forward = doubled
    assert chunkable_head(model) is None
    assert float(summed_loss(model, batch, True).detach()) == pytest.approx(float(whole(model, batch, 1.0)), rel=1e-5)


@pytest.mark.parametrize("hooked", [False, True])
def test_the_head_is_restored_after_an_error(hooked: bool) -> None:
    model = made("llama")
    head = model.get_output_embeddings()
    before = head.forward
    if hooked:
        head.forward = before
    with pytest.raises(RuntimeError, match="stop"), HeadInput(model):
        raise RuntimeError("stop")
    assert ("forward" in vars(head)) is hooked and head.forward == before


def test_a_chunk_of_a_large_vocabulary_takes_less_than_256_mib() -> None:
    for vocabulary in (32_000, 49_152, 128_256, 262_144):
        for device in ("cpu", "cuda"):
            (first, *_) = logit_chunks(1 << 20, vocabulary, device)
            assert (first.stop - first.start) * vocabulary * (2 + 4) <= 256 << 20
            assert (first.stop - first.start) % {"cpu": 32, "cuda": 128}[device] == 0  # whole tiles of tensor cores


def test_an_adapter_on_the_head_is_not_left_out() -> None:
    """The base was scored before, with a head that chunks can compute."""
    model, batch = made("llama"), collate(ROWS, PACKINGS[0], 0, "cpu")
    assert chunkable_head(model) is not None
    tuned = peft.get_peft_model(model, peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    assert chunkable_head(tuned) is None
    expected = whole(tuned, batch, 1.0)
    assert float(summed_loss(tuned, batch, True).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    with tuned.disable_adapter():
        assert float(whole(tuned, batch, 1.0).detach()) != pytest.approx(float(expected.detach()), rel=1e-3)
