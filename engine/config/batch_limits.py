"""Limits of a forward pass: its size, and which architectures keep packed rows apart.

The limits are by device, `cpu` and `cuda`, for the code that builds batches and the code that predicts memory.

A packed sequence restarts its position ids with each row. Attention whose mask is made from them does not reach earlier
rows. Short convolutions, linear attention and state-space layers read the tokens before a row regardless
of position ids, and some models pass no position ids to their masks.

The tables of architectures are evidence, not configuration: `engine.training.row_independence` was run on a small
random model of each architecture with transformers 5.24 in float32 and bf16. A run repeats the check on its own model
and rows; an architecture in no table is packed only if the check passes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from engine.config.model_limits import text_config

PackingMode = Literal["packed", "shared_prefix", "padded"]
"""How the rows of a micro-batch are combined (`train.packing`)."""

PACKED_MEAN_LENGTH = 256
"""Tokens. With a dense attention mask, rows longer than this on average are padded instead of packed."""
MAX_MASKED_TOKENS = {"cpu": 1024, "cuda": 4096}
"""Maximum tokens of a packed micro-batch under a dense mask, whose cost grows with their square."""
MAX_TOKENS = {"cpu": 2048, "cuda": 65536}
"""Maximum tokens of every other micro-batch, also of a configured size; a longer row is alone in one."""
SHAPE_MULTIPLE = {"cpu": 64, "cuda": 1}
"""The length of a micro-batch and the number of positions at which its head runs are padded to multiples of this. On a
CPU, oneDNN compiles and caches a kernel for each new shape of a bf16 matrix product, so the resident set grows with
every step; with few shapes it stays constant (`tests/bench/RESULTS.md`)."""

HELD_OUT_ROWS = 64
"""Rows of a forward pass without gradients."""
HELD_OUT_TOKENS = {"cpu": 2048, "cuda": 16384}
"""Tokens of a forward pass without gradients; enough to keep a GPU busy."""
HELD_OUT_LOGITS = 1 << 28
"""Logits of a forward pass without gradients: 0.5 GiB in bf16. With a limit on tokens alone they could take 3.9 GiB
at a vocabulary of 128k."""
CHUNK_ELEMENTS = {"cpu": 1 << 23, "cuda": 1 << 25}
"""Logits computed at a time: in float32 32 and 128 MiB for any vocabulary, with their bf16 copy 48 and 192 MiB. On a
GPU a chunk has to be long enough that multiplying takes longer than reading the head's weight: 261 rows of a vocabulary
of 128k."""

CHUNK_MULTIPLE = {"cpu": SHAPE_MULTIPLE["cpu"], "cuda": 128}
"""Chunks have a multiple of this many rows: matrix products on tensor cores are computed in tiles of 128 rows, and a
partly filled tile takes as long as a full one (NVIDIA, Matrix Multiplication Background User's Guide, section 3)."""

DECODER: dict[str, Literal["ftbench", "generate"]] = {"cpu": "ftbench", "cuda": "generate"}
"""What generates the answers that are scored, judged and exported with: `engine.evaluation.decode` or transformers'
`generate`. It depends on the device alone, so that answers before and after training, of all ranks, seeds and rungs
come from the same one. On a CPU ours was measured to be faster (tests/bench/RESULTS.md); neither has run on a GPU,
where `generate` is what models are tested with. Architectures that ours does not support are answered by `generate` on
a CPU too."""
ANSWERED_TOGETHER = {"cpu": 32, "cuda": 256}
"""Rows generated at a time at most, with `evaluation.batch = "auto"`. On a GPU a decoding step launches the same
kernels for any number of rows, and reads the weights once."""


def answers_together(setting: int | Literal["auto"], device: str) -> int:
    """Rows generated at a time if memory suffices; `setting`: `evaluation.batch`."""
    return ANSWERED_TOGETHER[device] if setting == "auto" else setting


def prefill_columns(rows: int, longest: int, device: str) -> int:
    """Columns of a batch of prompts, the longest of which has `longest` tokens, that `generate` reads at a time."""
    return min(longest, max(1, MAX_TOKENS[device] // max(1, rows)))


def padded_rows(rows: int, device: str) -> int:
    """Batch size computed for `rows` rows: on the CPU the next power of two up to 16, then the next multiple of 16.

    Few sizes, because oneDNN prepares and keeps a kernel for each new size of a bf16 product; these sizes, because
    products of 9 to 15 rows take longer than those of 16.
    """
    if device != "cpu":
        return rows
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


def rows_without_padding(rows: int, device: str) -> int:
    """The largest number of at most `rows` rows that needs no padding rows."""
    if device != "cpu":
        return rows
    return 1 << (rows.bit_length() - 1) if rows < 16 else rows // 16 * 16


REFILL_FRACTION = 4
"""During generation, waiting prompts are prefilled when one in this many rows of the batch is free: prefilling them one
by one would cost more than idle rows."""
SPARE_CACHE_COLUMNS = 64
"""Columns of the KV cache allocated ahead of the latest token, so that it is copied once per this many tokens."""
MAX_DRAFT_TOKENS = 8
"""Tokens that n-gram speculation proposes at a time."""
MAX_CHOICES_PER_PROMPT = 4
"""Answers that a forward pass of choice scoring scores for each prompt of a batch, on average."""
MAX_CHOICE_TOKENS = 2048
"""Tokens of a forward pass of choice scoring: a row of logits is as wide as the vocabulary."""


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


def text_type(model_config: Mapping[str, Any]) -> str:
    """The model type of the language model, also within a multimodal one."""
    return str(text_config(model_config).get("model_type") or "")
