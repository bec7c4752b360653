"""RoPE that depends on a row's length: a row's result does not depend on the rows computed with it or before it."""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import family_checks
import pytest
import torch
import transformers
from family_checks import Rows, row_of
from small_models import PAD, VOCABULARY, random_prompts
from tiny_configs import ROPE_TYPES, model_with, with_rope

from engine.config.catalog import CATALOG
from engine.config.model_config import length_classes, length_limit
from engine.config.schema import Config, Model, Train
from engine.data.rows import Row
from engine.evaluation.score import row_losses
from engine.methods import full
from engine.methods.machine import this_machine
from engine.methods.rope import separate_lengths
from engine.training.batches import Packing, answer_tokens, collate
from engine.training.loss import summed_loss
from engine.training.ranks import SINGLE_RANK
from engine.training.row_independence import ONE_ROW
from engine.worker import planning
from engine.worker.planning import decide_packing, rows_of_each_length

FAMILIES = {
    "one module": "llama",
    "rows that `generate` computes again": "phi3",
    "a scale by length": "phimoe",
    "parameters by type of layer": "gemma3_text",
    "by type of layer, in float32": "olmo3",
    "neighboring dimensions": "cohere",
    "complex numbers": "llama4_text",
    "latent attention": "deepseek_v3",
    "in a wrapper, with axes and linear attention": "qwen3_5",
    "masks without position ids": "gpt_oss",
    "short convolutions": "lfm2",
}
"""Kind of rotary module, or of layers with it -> a family; `tools/rope.py` has all."""
ONLY = {"phimoe": ("longrope",)}
"""Types of families that do not have all."""
LIMIT = 24
BEYOND_PADDING = 80
"""A limit that padding to a multiple of 64 tokens does not reach."""
DEPENDENT = ("longrope", "dynamic")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_a_row_is_computed_with_any_neighbors_as_alone(family: str) -> None:
    for rope in ONLY.get(family, ROPE_TYPES):
        found = family_checks.check_rope(family, rope, LIMIT)
        assert max(found["gradient"], found["padded"], found["losses"]) < 1e-4 and not found["answers"], (rope, found)
        assert found["packing"] == ("padded" if family == "gpt_oss" else "packed"), (rope, found)


def separate(model: Any) -> Any:
    model = copy.deepcopy(model)
    separate_lengths(model)
    return model


def loss_alone(model: Any, row: Row) -> float:
    """In nats, by transformers, in a model that has computed nothing else."""
    ids, labels = torch.tensor([row.input_ids]), torch.tensor([row.labels])
    with torch.no_grad():
        return float(copy.deepcopy(model)(input_ids=ids, labels=labels).loss) * answer_tokens(row)


def rows_of(*lengths: int) -> Rows:
    return Rows(row_of(random.Random(length), length, VOCABULARY) for length in lengths)


def decided(model: Any, rows: Rows, others: Sequence[Row] = ()) -> tuple[Packing, list[str]]:
    notes: list[str] = []
    config = Config(train=Train(batch=len(rows), steps=1, packing="shared_prefix"))
    packing, _ = decide_packing(
        config, model, rows, others, PAD, this_machine(), SINGLE_RANK, lambda code, text: notes.append(text)
    )
    return packing, notes


@pytest.mark.parametrize("others", [[], [BEYOND_PADDING + 1]], ids=["same split", "another split"])
@pytest.mark.parametrize("rope", DEPENDENT)
def test_the_check_finds_frequencies_of_the_longest_row(rope: str, others: list[int]) -> None:
    """If frequencies depend on the longest row, rows are computed alone, also if that row is in another split."""
    rows = rows_of(BEYOND_PADDING - 4, 5, 7, 9, 30, *([] if others else [BEYOND_PADDING + 1]))
    model = model_with(rope, limit=BEYOND_PADDING)
    packing, notes = decided(model, rows, rows_of(*others))
    assert packing == ONE_ROW and "alone" in notes[-1]
    assert decided(separate(model), rows, rows_of(*others))[0].mode == "packed"


def test_a_check_that_does_not_fit_in_memory_compares_fewer_rows_or_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    compare, most = planning.lengths_are_independent, 2

    def limited(model: Any, rows: Sequence[Row], *rest: Any) -> Any:
        if len(rows) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return compare(model, rows, *rest)

    monkeypatch.setattr(planning, "lengths_are_independent", limited)
    rows, others = rows_of(5, 7, 9, 30), rows_of(BEYOND_PADDING + 20)
    model = model_with("longrope", "gemma3_text", BEYOND_PADDING)  # whose windows of 16 tokens are a third class
    assert decided(model, rows, others)[0] == ONE_ROW
    most = 1
    packing, notes = decided(model, rows, others)
    assert packing.mode == "packed" and "not checked" in notes[-1]


def test_the_check_has_a_row_of_each_class_of_lengths() -> None:
    rows, others = rows_of(30, 5, 40, 9), rows_of(100, 60)

    def lengths(classes: list[int]) -> list[int]:
        return [len(row.input_ids) for row in rows_of_each_length(rows, others, classes)]

    assert lengths([]) == [100, 5] and lengths([9, 40]) == [100, 5, 30, 60] and lengths([100]) == [100, 5]


def test_the_lengths_of_classes_are_those_of_the_configuration() -> None:
    def config(family: str, rope: str) -> dict[str, Any]:
        made = with_rope(family, rope, LIMIT)
        assert made is not None
        return made.to_dict()

    assert length_classes(config("gemma3_text", "longrope")) == [16, LIMIT]
    assert length_limit(config("gemma3_text", "longrope")) == length_limit(config("qwen3_5", "dynamic")) == LIMIT
    assert length_limit({"rope_scaling": {"type": "dynamic"}, "max_position_embeddings": 8}) == 8
    for rope in set(ROPE_TYPES) - {*DEPENDENT}:
        assert length_limit(config("llama", rope)) is None


@pytest.mark.parametrize("rope", DEPENDENT)
def test_prefixes_are_shared_up_to_the_length_where_frequencies_change(rope: str) -> None:
    plain = model_with(rope)
    common = random_prompts([12])[0]
    for longest, mode in ((LIMIT, "shared_prefix"), (LIMIT + 1, "packed")):
        own = random_prompts([4, 6, longest - 12])
        rows = Rows(Row(common + ids, [-100] * 12 + ids, common, "", "here", False) for ids in own)
        model = separate(plain)
        packing, notes = decided(model, rows)
        assert packing.mode == mode and [note.split(" tokens")[0] for note in notes] == (
            [f"rows of more than {LIMIT}"] if mode == "packed" else []
        )
        expected = [loss_alone(plain, row) for row in rows]
        shared = Packing("shared_prefix", 1000, segments=True)  # decided with shorter rows
        for chosen in (packing, shared):
            computed = [loss.nll for loss in row_losses(model, rows, chosen, PAD, "cpu")]
            assert computed == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("entry", [entry for entry in CATALOG.values() if entry.shape["model_type"] == "phi3"])
def test_a_model_of_the_catalog_beyond_its_original_maximum(entry: Any, tmp_path: Path) -> None:
    """Phi-4-mini: rows around 4,096 tokens and of 1.2 times as many, in a small model with its RoPE, loaded as by a
    run.
    """
    shape, limit = entry.shape, 4096
    count = int(shape["hidden_size"] // shape["num_attention_heads"] * shape["partial_rotary_factor"]) // 2
    factors = {"short_factor": [1.0] * count, "long_factor": [1.0 + place for place in range(count)]}
    small = {
        "hidden_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 64,
        "num_hidden_layers": 2, "vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": 2,
        "original_max_position_embeddings": limit, "initializer_range": 0.1,
        "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, **factors},
    }  # fmt: skip
    torch.manual_seed(0)
    plain = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**shape | small)).eval()
    plain.save_pretrained(tmp_path)
    for name in family_checks.TOKENIZER_FILES:
        shutil.copy(family_checks.TINY / name, tmp_path)
    settings = Config(method="full", model=Model(id=str(tmp_path)), train=Train(precision="fp32"))
    model = full.load(settings, this_machine())
    rows = rows_of(50, limit, limit + 1, int(1.2 * limit))
    packing, _ = decided(model, rows)
    assert packing.mode == "packed" and packing.segments
    expected = [loss_alone(plain, row) for row in rows]
    for chosen in (replace(packing, tokens=50_000), Packing("padded", 50_000)):
        together = summed_loss(model, collate(rows, chosen, PAD, "cpu"), True)
        assert float(together.detach()) == pytest.approx(sum(expected), rel=1e-5)
    by_transformers = summed_loss(plain, collate([rows[0], rows[3]], Packing("padded", 50_000), PAD, "cpu"), True)
    assert abs(float(by_transformers.detach()) - expected[0] - expected[3]) > 0.1
