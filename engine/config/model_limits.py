"""Read a model's `config.json` before any library is loaded: its language model, and values that are impossible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
HIDDEN = ("hidden_size", "n_embd", "d_model")
LIMITS: dict[tuple[str, ...], int] = {
    LAYERS: 4096,
    ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"): 8192,
    ("num_key_value_heads", "n_head_kv", "num_kv_heads"): 8192,
    HIDDEN: 1 << 20,
    ("intermediate_size", "n_inner", "ffn_dim", "moe_intermediate_size"): 1 << 24,
    ("head_dim",): 1 << 16,
    ("vocab_size",): 1 << 26,
    ("max_position_embeddings", "n_positions"): 1 << 32,
}
"""Names that architectures use for a size -> largest plausible value, far beyond every published model."""
MAX_PARAMETERS = 10**14
TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Sections in which multimodal models keep the language model's configuration."""


def text_config(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's configuration in a `config.json`: of a multimodal model its section over the other keys."""
    sections = (section for name in TEXT_SECTIONS if isinstance(section := table.get(name), Mapping))
    return {**table, **next(sections, {})}


def impossible_value(table: Mapping[str, Any]) -> str:
    """What is impossible in a model's configuration; '' where nothing is."""
    return next(_faults(table, ""), "")


def _faults(table: Mapping[str, Any], where: str) -> Iterator[str]:
    for names, limit in LIMITS.items():
        for name in names:
            value = table.get(name)
            for one in value if isinstance(value, list) else [value]:  # some architectures give it per layer
                if one is not None and not _possible(one, limit):
                    yield f"{where}{name} is {_shown(one)}, not an integer from 1 to {limit:,}"
    layers, hidden = _first(table, LAYERS), _first(table, HIDDEN)
    if layers * 12 * hidden * hidden > MAX_PARAMETERS:
        yield f"{where}{layers:,} layers of hidden size {hidden:,} have more than {MAX_PARAMETERS:,} parameters"
    for name in TEXT_SECTIONS:
        if isinstance(inner := table.get(name), Mapping):
            yield from _faults(inner, f"{name}.")


def _possible(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= limit


def _first(table: Mapping[str, Any], names: tuple[str, ...]) -> int:
    return next((value for name in names if isinstance(value := table.get(name), int)), 0)


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**18 else "a number of more than 18 digits"
    return repr(value)[:40]
