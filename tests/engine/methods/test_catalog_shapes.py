"""The shapes of the catalog, built by transformers, have the parameters of the model cards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM

from engine.config.catalog import CATALOG, CatalogEntry
from engine.memory.formula.architecture import read_architecture
from engine.memory.formula.weights_and_state import base_parameters

CARDS = {
    "smollm2-135m": ("0.135", ""),
    "smollm3-3b": ("3.08", ""),
    "qwen3.5-0.8b": ("0.8", ""),
    "qwen3.5-2b": ("2", ""),
    "qwen3.5-4b": ("4", ""),
    "qwen3.5-9b": ("9", ""),
    "qwen3.5-35b-a3b": ("35", ""),
    "qwen3-0.6b": ("0.6", "0.44"),
    "qwen3-4b": ("4.0", "3.6"),
    "qwen3-8b": ("8.2", "6.95"),
    "qwen3-14b": ("14.8", "13.2"),
    "qwen3-32b": ("32.8", "31.2"),
    "qwen2.5-7b": ("7.61", "6.53"),
    "gemma-3-1b": ("1", ""),
    "gemma-4-e2b": ("5.1", ""),
    "gemma-4-e4b": ("8", ""),
    "gemma-4-12b": ("12", ""),
    "gpt-oss-20b": ("21", ""),
    "llama-3.2-1b": ("1.23", ""),
    "llama-3.2-3b": ("3.21", ""),
    "llama-3.1-8b": ("8", ""),
    "ministral-3-3b": ("3.8", ""),
    "ministral-3-8b": ("8.9", ""),
    "phi-4-mini": ("3.8", ""),
    "granite-4.0-1b": ("1.6", ""),
    "granite-4.0-micro": ("3", ""),
    "olmo-3-7b": ("7", ""),
    "lfm2.5-350m": ("0.35", ""),
    "lfm2.5-1.2b": ("1.17", ""),
}
"""10^9 parameters on the model card, and those without embeddings, if they are on it."""


def parameters(shape: Mapping[str, Any]) -> tuple[int, int]:
    """(all parameters, those of embeddings and head) of transformers' model, with its towers if it has some."""
    kind = AutoModelForMultimodalLM if "vision_config" in shape else AutoModelForCausalLM
    with torch.device("meta"):
        model = kind.from_config(AutoConfig.for_model(**shape))
    embeddings = {id(layer.weight): layer.weight.numel() for layer in (model.get_input_embeddings(), model.lm_head)}
    return sum(parameter.numel() for parameter in model.parameters()), sum(embeddings.values())


def same_digits(count: int, card: str) -> bool:
    """Whether a count agrees with a card's figure in all of its digits; some cards round down."""
    return abs(count / 1e9 - float(card)) < 10.0 ** -len(card.partition(".")[2])


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_a_catalog_shape_has_the_parameters_of_the_model_card(entry: CatalogEntry) -> None:
    """The formula counts them too, within 0.2%: it leaves out biases, norms of heads and parts of towers."""
    count, embeddings = parameters(entry.shape)
    assert entry.parameters == round(count / 1e6)
    assert base_parameters(read_architecture(entry.shape)) == pytest.approx(count, rel=2e-3)
    card, without_embeddings = CARDS[entry.name]
    assert same_digits(count, card)
    assert not without_embeddings or same_digits(count - embeddings, without_embeddings)


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_a_downloaded_configuration_is_read_as_the_catalogs_shape(entry: CatalogEntry) -> None:
    """transformers writes default values and other names for layers into a config.json."""
    written = AutoConfig.for_model(**entry.shape).to_dict()
    count = base_parameters(read_architecture(written))
    assert count == pytest.approx(base_parameters(read_architecture(entry.shape)), rel=2e-3)
