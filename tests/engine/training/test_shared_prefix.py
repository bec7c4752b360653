"""Prefixes that rows share are computed once: the same losses and gradients as rows in a padded batch."""

from __future__ import annotations

import copy
import random
from collections import Counter
from typing import Any

import pytest
import torch
import transformers
from flash_kernels import AtomicSums, reference_flash_kernels
from hypothesis import given, settings
from hypothesis import strategies as st
from model_shapes import MIXED_SHAPES, SHAPES, VOCABULARY
from tiny_configs import family_config
from torch.nn.attention.varlen import varlen_attn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.masking_utils import flash_attention_mask

from engine.config.model_config import row_separation
from engine.config.schema import Config, Train
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.score import row_losses
from engine.methods import method
from engine.methods.machine import Machine, kernels_of, this_machine
from engine.training import varlen_attention
from engine.training.batches import Packing, collate, loss_weight, micro_batches
from engine.training.loss import chunkable_head, summed_loss, supports_logits_to_keep
from engine.training.segments import MIN_SHARED_TOKENS, Arrangement, Segments, computed_tokens

SHARED = Packing("shared_prefix", 10_000, segments=True)
PACKED = Packing("packed", 10_000, segments=True)
PADDED = Packing("padded", 10_000)
CPU = Machine("cpu", "a CPU", bf16=True, flash_attention=False)
T4 = Machine("cuda", "Tesla T4", bf16=False, flash_attention=False)
A100 = Machine("cuda", "A100", bf16=True, flash_attention=False)


def row(prompt: list[int], answer: list[int], trained: tuple[int, ...] = (), weights: list[float] | None = None) -> Row:
    """A row whose answer is in the loss, and the prompt tokens at the places `trained`."""
    labels = [token if place in trained else IGNORE_INDEX for place, token in enumerate(prompt)] + answer
    return Row(prompt + answer, labels, prompt, "", "here", False, weights)


def tokens(count: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCABULARY), k=count)


def shared_rows() -> list[Row]:
    """Two levels of prefixes, a row that is a prefix of others, equal rows, a row alone, and turns trained in a prefix
    by some of the rows.
    """
    system, document, other = tokens(20, 1), tokens(15, 2), tokens(12, 3)
    rows = [row(system + document + tokens(4, 10 + n), tokens(3, 20 + n)) for n in range(3)]
    rows += [row(system + other + tokens(2, 30 + n), tokens(5, 40 + n), trained=(4, 5, 22)) for n in range(3)]
    rows += [row(system + document, tokens(4, 10)), row(system + document, tokens(4, 10))]
    rows += [row(system + document, [7]), row(system + document, [9]), row(tokens(17, 50), tokens(6, 51))]
    return rows


def model_of(shape: str, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    torch.manual_seed(0)
    config = copy.deepcopy({**SHAPES, **MIXED_SHAPES}[shape])
    if getattr(config, "sliding_window", None):
        config.sliding_window = 64
    made = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    for module in made.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if hasattr(made.config, "attn_pdrop"):
        made.config.attn_pdrop = 0.0
    return made.train()


def loss_and_gradients(
    model: torch.nn.Module, rows: list[Row], packing: Packing, micro_batch: int = 100
) -> tuple[float, torch.Tensor]:
    model.zero_grad(set_to_none=True)
    total, weight = 0.0, sum(map(loss_weight, rows))
    for group in micro_batches(rows, micro_batch, packing):
        loss = summed_loss(model, collate(group, packing, 0, "cpu"), supports_logits_to_keep(model)) / weight
        loss.backward()
        total += float(loss.detach())
    gradients = [p.grad.flatten().float() for p in model.parameters() if p.grad is not None]
    return total, torch.cat(gradients)


def relative(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).norm() / second.norm())


def test_a_model_that_drops_segments_is_an_error() -> None:
    """Without an error its rows would attend to each other; the loss may look right."""
    model = model_of("llama")  # with transformers' own attention, which ignores segments
    with pytest.raises(ValueError, match="not pass segments"):
        summed_loss(model, collate(shared_rows(), SHARED, 0, "cpu"), answers_only=True)


STATEFUL = [shape for shape, config in MIXED_SHAPES.items() if row_separation(config.to_dict()) == "segments"]
SUPPORTED = [*(shape for shape in SHAPES if shape != "gemma2"), *STATEFUL]


@pytest.mark.parametrize("shape", SUPPORTED)
@pytest.mark.parametrize("packing", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("micro_batch", [100, 4])
def test_losses_and_gradients_equal_those_of_a_padded_batch(shape: str, packing: Packing, micro_batch: int) -> None:
    model, rows = model_of(shape), shared_rows()
    assert varlen_attention.unsupported_reason(model, 64, CPU, torch.float32) == ""
    loss, gradients = loss_and_gradients(model, rows, PADDED, micro_batch)
    varlen_attention.enable(model)
    ours, ours_gradients = loss_and_gradients(model, rows, packing, micro_batch)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert relative(ours_gradients, gradients) < 1e-5


ROW = st.lists(st.integers(1, 3), min_size=1, max_size=40)
WINDOW = 16
"""Of the tiny configurations; `shared_rows` has prefixes of 20 and 35 tokens, and rows of up to 43."""


@pytest.mark.parametrize("packing", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("family", ["gemma3_text", "gemma4_text", "mistral", "olmo3", "lara_mini", "afmoe"])
def test_sliding_windows_shorter_than_the_rows(family: str, packing: Packing) -> None:
    torch.manual_seed(0)
    model_config, rows = family_config(family, VOCABULARY), shared_rows()
    model = transformers.AutoModelForCausalLM.from_config(model_config, dtype=torch.float32).train()
    assert model_config.sliding_window == WINDOW < max(len(tokenized.input_ids) for tokenized in rows)
    assert varlen_attention.unsupported_reason(model, 43, CPU, torch.float32) == ""
    loss, gradients = loss_and_gradients(model, rows, PADDED)
    varlen_attention.enable(model)
    ours, ours_gradients = loss_and_gradients(model, rows, packing)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert relative(ours_gradients, gradients) < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8), st.integers(1, 45), st.booleans())
def test_kernels_and_mask_agree_on_windows(rows: list[list[int]], window: int, share: bool) -> None:
    """Forward and backward, for every arrangement; and the mask is that of each row alone."""
    laid_out = Arrangement(rows, share)
    segments = Segments(laid_out.segments)
    assert segments.positions().tolist() == laid_out.positions
    mask = segments.mask(torch.device("cpu"), window)
    for ranges in laid_out.columns:
        columns = [column for part in ranges for column in part]
        for place, column in enumerate(columns):
            assert mask[0, 0, column].nonzero()[:, 0].tolist() == columns[max(0, place + 1 - window) : place + 1]
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn((1, heads, segments.tokens, 8), generator=generator) for heads in (4, 2, 2)]
    direction = torch.randn((1, 4, segments.tokens, 8), generator=generator)
    results = []
    for by_mask in (False, True):
        query, key, value = (tensor.clone().requires_grad_() for tensor in inputs)
        if by_mask:
            output = torch.nn.functional.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, scale=0.5, enable_gqa=True
            )
        else:
            output = varlen_attention.SegmentAttention.apply(query, key, value, segments, 0.5, window)
        output.backward(direction)
        results.append([output.detach(), query.grad, key.grad, value.grad])
    for ours, expected in zip(*results, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method_name", ["qlora", "lora", "full"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointing"])
def test_every_method_has_the_same_gradients(method_name: str, checkpointing: bool) -> None:
    config = Config(method=method_name, train=Train(precision="fp32"))
    base = method(method_name).load(config, this_machine())
    varlen_attention.enable(base)
    torch.manual_seed(0)
    model = method(method_name).make_trainable(base, config).train()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    rows = shared_rows()
    loss, gradients = loss_and_gradients(model, rows, PADDED)
    ours, ours_gradients = loss_and_gradients(model, rows, SHARED)
    tolerance = 2e-2 if method_name == "qlora" else 1e-5  # 4-bit layers compute in bf16
    assert ours == pytest.approx(loss, rel=tolerance)
    assert relative(ours_gradients, gradients) < tolerance


def test_bf16_differs_no_more_than_packed_and_padded_do() -> None:
    model, rows = model_of("llama", torch.bfloat16), shared_rows()
    varlen_attention.enable(model)
    padded, packed, shared = (loss_and_gradients(model, rows, packing)[1] for packing in (PADDED, PACKED, SHARED))
    assert relative(shared, padded) < 2 * relative(packed, padded)


@pytest.mark.parametrize("packing", [SHARED, PACKED], ids=["shared", "packed"])
def test_held_out_losses_of_each_row_are_those_of_the_row_alone(packing: Packing) -> None:
    model, rows = model_of("llama"), shared_rows()
    rows.append(row(rows[0].prompt, [5, 6], weights=[0.0] * len(rows[0].prompt) + [0.5, 2.0]))
    alone = [row_losses(model, [tokenized], PADDED, 0, "cpu")[0] for tokenized in rows]
    varlen_attention.enable(model)
    for ours, expected in zip(row_losses(model, rows, packing, 0, "cpu"), alone, strict=True):
        assert ours.nll == pytest.approx(expected.nll, rel=1e-5)
        assert (ours.tokens, ours.weight) == (expected.tokens, expected.weight)


def test_weights_of_a_shared_turn_are_summed() -> None:
    prefix, rows = tokens(16, 1), []
    for number, weight in enumerate((0.25, 1.0, 3.0)):
        made = row(prefix, tokens(4, 2 + number), trained=(10, 11))
        rows.append(row(prefix, tokens(4, 2 + number), (10, 11), [weight] * len(made.input_ids)))
    model = model_of("llama")
    loss, gradients = loss_and_gradients(model, rows, PADDED)
    varlen_attention.enable(model)
    ours, ours_gradients = loss_and_gradients(model, rows, SHARED)
    assert ours == pytest.approx(loss, rel=1e-5) and relative(ours_gradients, gradients) < 1e-5


@settings(max_examples=300, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=10), st.booleans())
def test_every_row_is_its_columns_and_attends_to_nothing_else(rows: list[list[int]], share: bool) -> None:
    laid_out = Arrangement(rows, share)
    allowed = Segments(laid_out.segments).mask(torch.device("cpu"))[0, 0]
    for ids, ranges in zip(rows, laid_out.columns, strict=True):
        columns = [column for part in ranges for column in part]
        assert [laid_out.ids[column] for column in columns] == ids
        assert [laid_out.positions[column] for column in columns] == list(range(len(ids)))
        for place, column in enumerate(columns):
            assert allowed[column].nonzero()[:, 0].tolist() == columns[: place + 1]
    ordered = sorted(rows)
    if share:
        assert computed_tokens(ordered) <= len(laid_out.ids) <= sum(map(len, rows))
        assert len(laid_out.ids) <= computed_tokens(ordered) + MIN_SHARED_TOKENS * len(rows)
    else:
        assert len(laid_out.ids) == sum(map(len, rows))


@settings(max_examples=100, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=8))
def test_gathered_keys_are_those_of_the_mask(rows: list[list[int]]) -> None:
    segments = Segments(Arrangement(rows, share=True).segments)
    keys, mask = segments.gathered_keys(torch.device("cpu")), segments.mask(torch.device("cpu"))[0, 0]
    assert (keys.columns is None) == (not segments.shared)  # nothing is gathered where nothing is shared
    columns = torch.arange(segments.tokens) if keys.columns is None else keys.columns
    for number, segment in enumerate(segments.segments):
        own = columns[keys.key_ends[number] : keys.key_ends[number + 1]].tolist()
        assert keys.query_ends[number : number + 2].tolist() == [segment.start, segment.end]
        for query in range(segment.start, segment.end):  # causal, with the last query at the last key
            seen = own[: len(own) - (segment.end - 1 - query)]
            assert mask[query].nonzero()[:, 0].tolist() == seen


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), st.integers(1, 5), st.integers(20, 120))
def test_micro_batches_keep_the_rows_of_the_step(ids: list[list[int]], micro_batch: int, limit: int) -> None:
    rows = [row(input_ids, [1]) for input_ids in ids]
    groups = list(micro_batches(rows, micro_batch, Packing("shared_prefix", limit, segments=True)))
    assert sorted(map(id, rows)) == sorted(id(tokenized) for group in groups for tokenized in group)
    for group in groups:
        assert len(group) <= micro_batch
        assert len(group) == 1 or computed_tokens([tokenized.input_ids for tokenized in group]) <= limit


@pytest.mark.parametrize(
    ("shape", "longest", "reason"),
    [
        ("gemma2", 8, "soft-caps"),
        ("gemma3", 9, ""),
        ("mistral", 65, ""),
        ("phimoe", 17, "sliding window of 16 tokens"),
        ("phimoe", 16, ""),
        ("gpt2", 8, "attention dropout"),
        ("llama", 10_000, ""),
    ],
)
def test_what_segments_do_not_support_is_named(shape: str, longest: int, reason: str) -> None:
    model = transformers.AutoModelForCausalLM.from_config(SHAPES.get(shape) or family_config(shape))
    unsupported = varlen_attention.unsupported_reason(model, longest, CPU, torch.float32)
    assert reason in unsupported and bool(unsupported) == bool(reason)


@pytest.mark.parametrize(
    ("family", "machine", "dtype", "supported"),
    [
        ("llama", A100, torch.bfloat16, True),
        ("llama", A100, torch.float32, False),
        ("llama", T4, torch.float32, False),
        ("llama", T4, torch.bfloat16, False),
        ("llama", CPU, torch.float32, True),
        ("deepseek_v3", A100, torch.bfloat16, False),  # keys and values have different sizes
        ("deepseek_v3", CPU, torch.float32, True),
    ],
)
def test_segments_on_a_gpu_need_a_flash_kernel(
    family: str, machine: Machine, dtype: torch.dtype, supported: bool
) -> None:
    """Without one a pack would need the attention scores of up to 65,536 tokens."""
    model = transformers.AutoModelForCausalLM.from_config(SHAPES.get(family) or family_config(family))
    if family == "deepseek_v3":
        model.config.v_head_dim = model.config.qk_nope_head_dim + model.config.qk_rope_head_dim + 8
    assert (varlen_attention.unsupported_reason(model, 64, machine, dtype) == "") == supported


@pytest.mark.parametrize("packing", [SHARED, PACKED], ids=["shared", "packed"])
@pytest.mark.parametrize("shape", ["llama", "mistral"])
def test_a_step_with_flash_kernels_has_the_gradients_of_padded_rows(shape: str, packing: Packing) -> None:
    """The path of CUDA through forward and backward of a whole model, with reference kernels."""
    model, rows = model_of(shape, torch.bfloat16), shared_rows()
    loss, padded = loss_and_gradients(model, rows, PADDED)
    exact = model_of(shape)
    exact.load_state_dict(model.state_dict())
    _, reference = loss_and_gradients(exact, rows, PADDED)
    varlen_attention.enable(model)
    with reference_flash_kernels() as calls, kernels_of("cuda"):
        ours, gradients = loss_and_gradients(model, rows, packing)
    assert calls["forward"] == calls["backward"] == model.config.num_hidden_layers
    assert ours == pytest.approx(loss, rel=5e-3)
    assert relative(gradients, reference) < 1.5 * relative(padded, reference)


def test_flash_attention_is_given_the_places_of_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every layer, as `FlashAttentionKwargs`, with the losses and gradients of padded rows."""
    seen: list[tuple[int, int]] = []

    def flash(
        module: object, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: None, **options: Any
    ) -> tuple[torch.Tensor, None]:
        assert mask is None and options["cu_seq_lens_k"] is options["cu_seq_lens_q"]
        seen.append((options["max_length_q"], options["max_length_k"]))
        query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
        ends, scale = options["cu_seq_lens_q"], options["scaling"]
        how = {"scale": scale, "window_size": (-1, 0), "enable_gqa": True}
        return varlen_attn(query, key, value, ends, ends, *seen[-1], **how)[None], None

    model, rows = model_of("llama"), shared_rows()
    loss, gradients = loss_and_gradients(model, rows, PADDED)
    transformers.AttentionInterface.register("stand_in", flash)
    transformers.AttentionMaskInterface.register("stand_in", flash_attention_mask)
    model.set_attn_implementation("stand_in")
    with reference_flash_kernels():
        ours, ours_gradients = loss_and_gradients(model, rows, Packing("packed", 10_000, lengths=True))
    padding = -sum(len(tokenized.input_ids) for tokenized in rows) % 64
    longest = max(padding, *(len(tokenized.input_ids) for tokenized in rows))
    assert seen == [(longest, longest)] * model.config.num_hidden_layers
    assert ours == pytest.approx(loss, rel=1e-5)
    assert relative(ours_gradients, gradients) < 1e-5


@pytest.mark.parametrize("packing", [SHARED, PACKED, PADDED], ids=["shared", "packed", "padded"])
def test_kernels_of_a_cpu_see_few_sizes(packing: Packing) -> None:
    """It compiles and keeps a kernel for each: matrix products of 64 rows or a multiple, and lengths of 16 tokens."""
    model, products, lengths = model_of("llama"), Counter[int](), Counter[int]()

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, operation: Any, types: Any, inputs: Any = (), options: Any = None) -> Any:
            name = operation.name()
            if name.startswith(("aten::mm", "aten::addmm")):
                products[inputs[-2].shape[0]] += 1
            elif name.startswith("aten::_scaled_dot_product_flash_attention_for_cpu") and len(lengths) < 1000:
                query = inputs["backward" in name]
                lengths[query.shape[2]] += query.shape[2] == inputs[1 + ("backward" in name)].shape[2]
            return operation(*inputs, **(options or {}))

    if packing.segments:
        varlen_attention.enable(model)
    chunkable_head(model)  # compares two tokens, once
    for seed in range(8):
        prompts = [tokens(5 + (seed * 7 + n * 5) % 40, n) for n in range(6)]
        with Sizes():
            loss_and_gradients(model, [row(tokens(9, 99) + prompt, tokens(1 + seed, 3)) for prompt in prompts], packing)
    weights = {weight.shape[0] for weight in model.parameters()}  # gradients of weights have their rows
    assert {size for size in products if size % 64} <= weights
    assert not packing.segments or not any(count and length % 16 for length, count in lengths.items())


def test_gradients_of_a_shared_prefix_are_summed_in_float32() -> None:
    """With sums of bf16 as CUDA's atomics make them, which the CPU's own kernel does not."""
    torch.manual_seed(0)
    prefix, count = 24, 256
    layout = Arrangement([[1 + n for n in range(prefix)] + [1000 + n] * 2 for n in range(count)], share=True)
    segments = Segments(layout.segments)
    states = [torch.randn(1, 2, segments.tokens, 16) for _ in range(3)]
    gradient = torch.randn(1, 2, segments.tokens, 16)
    by_dtype = {}
    for dtype in (torch.float32, torch.bfloat16):
        query, key, value = (state.bfloat16().to(dtype).requires_grad_() for state in states)
        with reference_flash_kernels(), kernels_of("cuda"), AtomicSums():
            attended = varlen_attention._on_cuda(query, key, value, segments, 0.25, None)
            attended.backward(gradient.bfloat16().to(dtype))
        by_dtype[dtype] = torch.cat([key.grad[0, :, :prefix].flatten(), value.grad[0, :, :prefix].flatten()]).float()
    assert relative(by_dtype[torch.bfloat16], by_dtype[torch.float32]) < 0.006
