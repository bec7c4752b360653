"""Read a model's `config.json` before any library is loaded: its language model, how its weights are stored, and values
that are impossible.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.errors import UserError

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


DEQUANTIZED = {"mxfp4": "MXFP4", "fp8": "FP8"}
"""Types of quantized weights that transformers dequantizes while it loads them (`dequantize=True`), and their names."""
QUANTIZED_AGAIN = ("mxfp4",)
"""Those of which QLoRA quantizes what was dequantized, tensor by tensor (`engine.methods.qlora`)."""


def stored_quantization(table: Mapping[str, Any]) -> str:
    """How the weights of a model with this `config.json` are quantized on disk, by transformers' name: `mxfp4`, `fp8`,
    `gptq`, …, or `unknown`; "" for weights in 16 or 32 bits.
    """
    stored = table.get("quantization_config") or text_config(table).get("quantization_config")
    if not stored:
        return ""
    method = stored.get("quant_method") if isinstance(stored, Mapping) else None
    return str(getattr(method, "value", method) or "unknown")


def check_stored_weights(table: Mapping[str, Any], model: str, quantizes_base: bool) -> None:
    """Raise UserError if a method cannot train the weights of this `config.json` as they are stored.

    `quantizes_base`: whether the method stores the base in 4 bits.
    """
    kind = stored_quantization(table)
    if kind and kind not in (QUANTIZED_AGAIN if quantizes_base else DEQUANTIZED):
        problem = f"the weights are stored quantized already ({kind})"
        hint = "use a copy of the model in 16 bits" + (", or LoRA" if kind in DEQUANTIZED else "")
        raise UserError(problem, model, hint, code="model.already_quantized")


def stored_weights_note(table: Mapping[str, Any]) -> str:
    """What training does with weights that are stored quantized; "" for others."""
    kind = stored_quantization(table)
    if kind not in DEQUANTIZED:
        return ""
    again = "; QLoRA quantizes them again, to 4 bits" if kind in QUANTIZED_AGAIN else ", and not trained with QLoRA"
    return f"the weights are stored in {DEQUANTIZED[kind]}: they are dequantized while they are loaded{again}"


def impossible_value(table: Mapping[str, Any]) -> str:
    """What is impossible in a model's configuration; '' where nothing is."""
    return next(_faults(table, ""), "")


def _faults(table: Mapping[str, Any], where: str) -> Iterator[str]:
    for names, limit in LIMITS.items():
        for name in names:
            value = table.get(name)
            for number in value if isinstance(value, list) else [value]:  # some architectures give it per layer
                if number is not None and not _possible(number, limit):
                    yield f"{where}{name} is {_shown(number)}, not an integer from 1 to {limit:,}"
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
