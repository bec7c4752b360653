"""What is impossible in a model's `config.json`, before any library reads it: sizes, other numbers, types.

Libraries accept most of it, and a run with it trains on NaN or fails late.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.config.model_config import TEXT_SECTIONS

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


MAX_NUMBER = 3.4e38
"""Weights are computed in types with this range."""
INFINITE = ("time_step_limit",)
"""Names of numbers that may be infinite: Mamba 2 has no upper limit of its time steps."""
_RANGES: tuple[tuple[re.Pattern[str], float, float], ...] = tuple(
    (re.compile(name), low, high)
    for name, low, high in (
        (r"(^|_)eps(ilon)?$", 0, 1),
        (r"^((global|local|compress)_)?rope_theta$|base_freq$|^rotary_emb_base$|^rotary_embedding_base$", 1, 1e15),
        (r"dropout|_pdrop$|drop_rate$|_layerdrop$", 0, 1),
        (r"initializer_range$|(^|_)init_std$", 0, 1e3),
        (r"softcap(ping)?$", 0, 1e6),
        (r"^((short|long|low_freq|high_freq|attention)_)?factor$|^partial_rotary_factor$|^rotary_pct$", 1e-6, 1e6),
        (r"_multipliers?$|_scaling$|_scale$|_scalar$", -1e6, 1e6),
    )
)
"""Names of other numbers, and the smallest and largest plausible value, far beyond those of transformers' models."""
ROPE = ("rope_parameters", "rope_scaling")
ROPE_TYPES: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "proportional": (),
    "su": ("short_factor", "long_factor"),
    "mrope": (),
    "axial": (),
    "ntk_alpha": (),
    "xdrope": (),
}
"""Types of RoPE that transformers computes, and what each needs."""
_DTYPE = re.compile(r"(torch\.)?(auto|half|float|double|bfloat16|float(16|32|64|8_\w+))")


def impossible_value(table: Mapping[str, Any]) -> str:
    """What is impossible in a model's configuration; '' where nothing is."""
    return next(_faults(table, ""), "") or next(_number_faults(table, "", ""), "")


def _faults(table: Mapping[str, Any], where: str) -> Iterator[str]:
    has_latent_heads = isinstance(table.get("qk_nope_head_dim"), int)  # their head_dim may be 0
    for names, limit in LIMITS.items():
        for name in names:
            value = table.get(name)
            for number in value if isinstance(value, list) else [value]:  # some architectures give it per layer
                is_integer = isinstance(number, int) and not isinstance(number, bool)
                if number is None or (is_integer and 1 <= number <= limit) or (name == "head_dim" and has_latent_heads):
                    continue
                yield f"{where}{name} is {_shown(number)}, not an integer from 1 to {limit:,}"
    layers, hidden = (
        next((value for name in names if isinstance(value := table.get(name), int)), 0) for names in (LAYERS, HIDDEN)
    )
    if layers * 12 * hidden * hidden > MAX_PARAMETERS:
        yield f"{where}{layers:,} layers of hidden size {hidden:,} have more than {MAX_PARAMETERS:,} parameters"
    for name in ("model_type", "dtype", "torch_dtype"):
        value = table.get(name)
        if value is not None and not (isinstance(value, str) and (name == "model_type" or _DTYPE.fullmatch(value))):
            yield f"{where}{name} is unknown: {_shown(value)}"
    yield from _rope_faults(table, where)
    for name in TEXT_SECTIONS:
        if isinstance(inner := table.get(name), Mapping):
            yield from _faults(inner, f"{name}.")


def _number_faults(value: Any, name: str, where: str) -> Iterator[str]:
    """What is impossible in numbers at any depth. `name`: their key; `where`: the path to them."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _number_faults(inner, str(key), f"{where}.{key}" if where else str(key))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _number_faults(inner, name, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value != value or (abs(value) > MAX_NUMBER and not (name in INFINITE and value == math.inf)):
            yield f"{where} is {_shown(value)}, not a number that weights can be computed with"
        for pattern, low, high in _RANGES:
            if pattern.search(name) and not low <= value <= high:
                yield f"{where} is {_shown(value)}, not a number from {low:g} to {high:g}"


def _rope_faults(table: Mapping[str, Any], where: str) -> Iterator[str]:
    """What is wrong with settings of RoPE: of all layers, or of each type of layer."""
    for name in ROPE:
        if (rope := table.get(name)) is None:
            continue
        if not isinstance(rope, Mapping):
            yield f"{where}{name} is {_shown(rope)}, not an object"
            continue
        for part in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):
            kind = part.get("rope_type", part.get("type"))
            if kind is None:
                continue
            if not isinstance(kind, str) or kind not in ROPE_TYPES:
                yield f"{where}{name} has the unknown type {_shown(kind)}"
            elif missing := [key for key in ROPE_TYPES[kind] if part.get(key) is None]:
                yield f"{where}{name} of the type {kind} has no {missing[0]}"


def _shown(value: Any) -> str:
    """A value in an error, shortened."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if abs(value) < 10**18 else "a number of more than 18 digits"
    return repr(value)[:40]
