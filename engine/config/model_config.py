"""What a model's `config.json` says before any library is loaded: language model, stored weights, whether its family
was tested, and whether packed rows are separate. What is impossible in it: `engine.config.model_limits`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from engine.config.errors import UserError
from engine.config.method_specs import method_names, method_spec

TEXT_SECTIONS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Sections in which multimodal models keep the language model's configuration."""


def text_config(table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's configuration in a `config.json`: of a multimodal model its section over the other keys."""
    sections = (section for name in TEXT_SECTIONS if isinstance(section := table.get(name), Mapping))
    return {**table, **next(sections, {})}


def text_type(model_config: Mapping[str, Any]) -> str:
    """The model type of the language model, also within a multimodal one."""
    return str(text_config(model_config).get("model_type") or "")


def _rope_limits(text: Mapping[str, Any]) -> Iterator[int]:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    for table in (rope, *(part for part in rope.values() if isinstance(part, Mapping))):  # of all layers, or by type
        kind, longest = str(table.get("rope_type") or table.get("type") or ""), text.get("max_position_embeddings")
        if kind == "longrope":
            name = "original_max_position_embeddings"
            longest = table.get(name) or text.get(name) or longest
        if longest and (kind == "longrope" or "dynamic" in kind):
            yield longest


def length_limit(model_config: Mapping[str, Any]) -> int | None:
    """Tokens up to which RoPE is the same for rows of any length; None if it never depends on their length.

    Longer rows have other frequencies: `longrope` has a second set for them, `dynamic` one for each length.
    """
    return min(_rope_limits(text_config(model_config)), default=None)


def unshared_reason(model_config: Mapping[str, Any], longest: int) -> str:
    """Why rows of up to `longest` tokens cannot share prefixes, which would need the frequencies of each; "" if they
    can.
    """
    limit = length_limit(model_config)
    return f"rows of more than {limit:,} tokens have other RoPE frequencies" if limit and longest > limit else ""


def length_classes(model_config: Mapping[str, Any]) -> list[int]:
    """Lengths at which a model begins to compute longer rows in another way: windows and limits of RoPE, ascending."""
    text = text_config(model_config)
    windows = (text.get(name) for name in ("sliding_window", "attention_chunk_size", "window_size"))
    return sorted({*_rope_limits(text), *(window for window in windows if isinstance(window, int))})


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


FILE = Path(__file__).with_name("families.jsonl")
"""Written by `tools/families.py`: a line about versions, then one for each family."""


@cache
def family_rows() -> dict[str, dict[str, Any]]:
    """Family -> what the tests found."""
    lines = FILE.read_text("utf-8").splitlines()[1:]
    return {row["family"]: row for row in map(json.loads, lines)}


def tested_with() -> dict[str, Any]:
    """The versions of the libraries that the families were tested with, and the families that were not (`untested`)."""
    head: dict[str, Any] = json.loads(FILE.read_text("utf-8").splitlines()[0])
    return head


def untested_family(model_config: Mapping[str, Any]) -> str:
    """A warning for a model whose family was not tested or failed the tests; "" if it passed or its type is unknown."""
    family, rows = str(model_config.get("model_type") or ""), family_rows()
    if not family:
        return ""
    # The text model of a multimodal family has the same layers.
    row = rows.get(family) or rows.get(family.removesuffix("_text"))
    if row is None or "state" in row:
        what = f"models of type {family} have not been tested"
        return f"{what}: compare with a padded run, and check the export (docs/models.md)"
    checks = {name: check for name, check in row.items() if isinstance(check, dict)}
    failed = [f"{name}: {check['error']}" for name, check in checks.items() if check.get("error")]
    if row.get("resume", {}).get("resume", "") not in ("", "equal to the bit"):
        failed.append("resume: other losses")
    return f"a tiny model of type {family} failed: {'; '.join(failed)} (docs/models.md)" if failed else ""


def check_method(model_config: Mapping[str, Any], model: str, method: str) -> None:
    """Raise UserError if a method cannot train a model with this `config.json`: because of the type in which weights
    are stored, or because a tiny model of its family failed with this method and this version of transformers.

    Another version may have repaired it: then a plan only warns.
    """
    from importlib.metadata import version  # slow to import: not before the first frame

    family, tested = str(model_config.get("model_type") or ""), tested_with()["transformers"]
    row = family_rows().get(family, {})
    found = row.get(method, {})
    if found.get("state") == "error" and version("transformers") == tested:
        problem = f"{method} does not work for models of type {family} with transformers {tested}: {found['error']}"
        others = [name for name, one in row.items() if isinstance(one, dict) and one.get("state") == "ok"]
        hint = f"use {' or '.join(others)}, or" if others else "use"
        raise UserError(problem, model, f"{hint} another version of transformers", code="model.family_fails")
    check_stored_weights(model_config, model, method_spec(method).quantizes_base)


def check_trainable(model_config: Mapping[str, Any], model: str) -> None:
    """Raise the first refusal of `check_method` if no method can train the model."""
    refusals: list[UserError] = []
    for method in method_names():
        try:
            return check_method(model_config, model, method)
        except UserError as error:
            refusals.append(error)
    raise refusals[0]


# The tables of architectures below are evidence, not configuration: `engine.training.row_independence` was run on a
# small random model of each architecture with transformers 5.24 in float32 and bf16. A run repeats the check on its own
# model and rows; an architecture in no table is packed only if the check passes.
#
# A packed sequence restarts its position ids with each row. Attention whose mask is made from them does not reach
# earlier rows. Short convolutions, linear attention and state-space layers read the tokens before a row regardless of
# position ids, and some models pass no position ids to their masks.

RowSeparation = Literal["separate", "segments", "mixed", "unknown"]
"""Whether packed rows influence each other: no; only without segments (`engine.training.segments`); yes; not known
before the run."""

SEPARATE = frozenset(
    {
        *("llama", "llama4_text", "mistral", "ministral3", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
        *("gemma", "gemma2", "gemma3_text", "gemma3n_text", "gemma4_text", "phi", "phi3", "phimoe", "smollm3"),
        *("glm4", "glm4_moe", "deepseek_v3", "granite", "granitemoe", "olmo2", "olmo3", "cohere", "cohere2"),
        *("starcoder2", "stablelm", "ernie4_5", "ernie4_5_moe", "hunyuan_v1_dense", "apertus", "exaone4", "seed_oss"),
        *("gpt2", "gpt_neo", "gpt_neox"),
    }
)
"""Model types whose packed rows are exactly those of a padded batch."""

STATE = "its layers carry a state from one token to the next"
NO_POSITIONS = "its attention masks ignore position ids"
MIXED = {
    **dict.fromkeys(("afmoe", "bloom", "gpt_oss", "mpt", "openai-gpt", "opt", "xglm"), NO_POSITIONS),
    **dict.fromkeys(
        (
            *("bailing_hybrid", "bamba", "falcon_h1", "falcon_mamba", "granitemoehybrid", "jamba", "kimi_linear"),
            *("lara_mini", "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "minimax", "nemotron_h", "olmo_hybrid"),
            *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "recurrent_gemma", "rwkv", "xlstm", "zamba", "zamba2"),
        ),
        STATE,
    ),
}
"""Model types whose packed rows influence each other, and why."""
BY_SEGMENTS = frozenset(
    {
        *("afmoe", "bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "lara_mini", "lfm2", "lfm2_moe", "lfm3"),
        *("minimax", "nemotron_h", "olmo_hybrid", "opt", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "zamba2"),
    }
)
"""Those of MIXED that are exact with segments: their layers with a state pass on arguments, and compute row by row."""
WINDOWS_BY_SEGMENTS = frozenset(
    {
        *("afmoe", "beam", "cohere2", "cohere2_moe", "cohere_compass_text", "cwm", "dory", "dots1", "exaone4"),
        *("exaone_moe", "gemma3_text", "gemma3n_text", "gemma4_text", "gemma4_unified_text", "kolibri1", "laguna"),
        *("lara_mini", "lfm3", "mellum", "ministral", "ministral3", "mistral", "mixtral", "modernbert-decoder"),
        *("olmo3", "phi3", "qwen2", "qwen3", "qwen3_moe", "smollm3", "starcoder2"),
    }
)
"""Model types with sliding windows that segments compute: their layers pass the size of the window to attention."""
ANSWERED_ALONE = frozenset({"minimax", "recurrent_gemma", "rwkv"})
"""Model types for which padding in front of a prompt changes the answer that transformers 5.24 generates."""
ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention", "indexed_attention"})
"""Layers whose masks are made from position ids, as `layer_types` in `config.json` names them."""
STATEFUL_LAYERS = frozenset({"linear_attention", "mamba", "conv", "recurrent", "hybrid", "hybrid_sliding"})
"""Layers with a state."""
NO_MIXER = frozenset({"mlp", "moe"})
"""Layers that compute each token by itself."""


STATE_SIZES = (
    "conv_L_cache",
    "hybrid_override_pattern",
    "linear_num_value_heads",
    "mamba_d_state",
    "ssm_state_size",
    "state_size",
)
"""Keys of `config.json` that only architectures with a state have."""


MAX_HEAD_SIZE = 256
"""Head size up to which flash attention computes on CUDA."""


def head_sizes(text: Mapping[str, Any]) -> tuple[int, int]:
    """(elements of a key, of a value) per head, the largest of all layers, by a text model's `config.json`; 0 where it
    follows from other sizes.
    """
    latent = (text.get("qk_nope_head_dim") or 0) + (text.get("qk_rope_head_dim") or 0)
    if latent:
        return latent, text.get("v_head_dim") or latent
    size = max(text.get("head_dim") or 0, text.get("global_head_dim") or 0)
    return size, size


def segment_kernel_missing(is_ampere: bool, itemsize: int, sizes: tuple[int, int]) -> str:
    """Why a CUDA GPU has no flash attention for segments; "" if it has. `is_ampere`: compute capability 8.0 or newer;
    `itemsize`: bytes per element of queries and keys; `sizes`: `head_sizes`.
    """
    key, value = sizes
    if not is_ampere:
        return "attention over segments needs a GPU of compute capability 8.0 or newer"
    if itemsize != 2:
        return "attention over segments needs half precision on a GPU"
    if key != value:
        return f"its keys have {key} elements per head and its values {value}"
    return f"its heads have {key} elements, and kernels at most {MAX_HEAD_SIZE}" if key > MAX_HEAD_SIZE else ""


def row_separation(model_config: Mapping[str, Any]) -> RowSeparation:
    """Whether packed rows influence each other in a model with this `config.json`."""
    if mixing_reason(model_config):
        return "segments" if text_type(model_config) in BY_SEGMENTS else "mixed"
    return "separate" if text_type(model_config) in SEPARATE else "unknown"


def mixing_reason(model_config: Mapping[str, Any]) -> str:
    """Why packed rows influence each other without segments; "" if not, or if it is not known before the run."""
    kind = text_type(model_config)
    if reason := MIXED.get(kind):
        return reason
    text = text_config(model_config)
    layers = text.get("layer_types")
    kinds = set(map(str, layers)) if isinstance(layers, list) else set()
    if kind in SEPARATE:
        return ""
    if kinds & STATEFUL_LAYERS or any(text.get(name) for name in STATE_SIZES):
        return STATE
    unknown = sorted(kinds - ATTENTION_LAYERS - NO_MIXER)
    return f"nothing is known of its layers of type {', '.join(unknown)}" if unknown else ""
