"""The shapes of the catalog, built by transformers, have the parameters of the model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine.config.catalog import CATALOG, CatalogEntry
from engine.memory.formula.architecture import read_architecture
from engine.memory.formula.weights_and_state import base_parameters

CARDS = {
    "smollm2-135m": ("0.135", ""),
    "smollm2-1.7b": ("1.7", ""),
    "qwen3-0.6b": ("0.6", "0.44"),
    "qwen3-1.7b": ("1.7", "1.4"),
    "qwen3-4b": ("4.0", "3.6"),
    "qwen3-8b": ("8.2", "6.95"),
    "qwen3-14b": ("14.8", "13.2"),
    "qwen3-32b": ("32.8", "31.2"),
    "qwen2.5-7b": ("7.61", "6.53"),
    "llama-3.2-1b": ("1.23", ""),
    "llama-3.2-3b": ("3.21", ""),
    "llama-3.1-8b": ("8", ""),
    "gemma-3-1b": ("1", ""),
    "mistral-7b-v0.3": ("7", ""),
    "mistral-small-24b": ("24", ""),
}
"""10^9 parameters on the model card, and those without embeddings, if they are on it."""


def parameters(shape: Mapping[str, Any], layers: int) -> tuple[int, int]:
    """(all parameters, those of embeddings and head) of transformers' model with this number of layers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**{**shape, "num_hidden_layers": layers}))
    embeddings = {id(one.weight): one.weight.numel() for one in (model.get_input_embeddings(), model.lm_head)}
    return sum(one.numel() for one in model.parameters()), sum(embeddings.values())


def same_digits(count: int, card: str) -> bool:
    """Whether a count agrees with a card's figure in all of its digits; some cards round down."""
    return abs(count / 1e9 - float(card)) < 10.0 ** -len(card.partition(".")[2])


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_a_catalog_shape_has_the_parameters_of_the_model_card(entry: CatalogEntry) -> None:
    one, embeddings = parameters(entry.shape, 1)
    layer = parameters(entry.shape, 2)[0] - one
    count = one + layer * (entry.shape["num_hidden_layers"] - 1)
    assert entry.parameters == round(count / 1e6)
    assert base_parameters(read_architecture(entry.shape)) == pytest.approx(count, rel=2e-4)
    card, without_embeddings = CARDS[entry.name]
    assert same_digits(count, card)
    assert not without_embeddings or same_digits(count - embeddings, without_embeddings)
