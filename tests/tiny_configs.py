"""Tiny configurations of every family of transformers that generates text, for the matrix of `bench/families.py`.

Most are the family's own configuration class with small values for the sizes that it has; those whose layers would all
be of one kind, and multimodal models, are written out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

LAYERS = 2
SIZES: dict[str, Any] = {
    "hidden_size": 64, "n_embd": 64, "d_model": 64, "dim": 64, "num_hidden_layers": LAYERS, "n_layer": LAYERS,
    "n_layers": LAYERS, "num_layers": LAYERS, "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 128, "ffn_dim": 128, "n_inner": 128,
    "max_position_embeddings": 512, "n_positions": 512, "max_seq_len": 512, "sliding_window": 16,
    "num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "num_experts_per_tok": 2,
    "top_k_experts": 2, "moe_k": 2, "moe_intermediate_size": 64, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
    "moe_topk": 2, "zero_expert_num": 2, "ffn_hidden_size": 128, "expert_ffn_hidden_size": 64, "index_topk": 8,
    "index_num_heads": 1,
    "shared_expert_intermediate_size": 64, "shared_intermediate_size": 128, "first_k_dense_replace": 1,
    "num_dense_layers": 1, "moe_layer_start_index": 1, "q_lora_rank": 64, "kv_lora_rank": 64, "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 16, "v_head_dim": 16, "mamba_n_heads": 32, "mamba_d_head": 4, "mamba_d_state": 16,
    "mamba_n_groups": 1, "mamba_chunk_size": 16, "mamba_num_heads": 32, "mamba_head_dim": 4, "ssm_state_size": 16,
    "state_size": 16, "chunk_size": 16, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
    "linear_key_head_dim": 16, "linear_value_head_dim": 16, "moe_shared_expert_intermediate_size": 64,
    "hidden_size_per_layer_input": 16, "embedding_size": 64, "rotary_dim": 16, "num_kv_heads": 2, "expand": 2,
}  # fmt: skip
"""Small values by every name that a size has in some family; a family takes those that it knows."""
TWO_KINDS = ["linear_attention", "full_attention"]
WINDOWS = ["sliding_attention", "full_attention"]
BYTES = {
    "hidden_size": 64,
    "hidden_size_global": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 4096,
}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
VISUAL = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
    "num_position_embeddings": 16,
}  # fmt: skip
CHANGES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1], "head_dim": None},
    "bailing_hybrid": {"layer_types": TWO_KINDS},
    "blt": {
        "patching_mode": "space", "encoder_hash_byte_group_vocab": 64, "patcher_config": BYTES, "encoder_config": BYTES,
        "decoder_config": BYTES, "global_config": BYTES,
    },
    "dory": {
        "layer_types": ["sliding_attention", "mlp", "full_attention", "mlp"], "num_hidden_layers": 4,
    },
    "falcon": {"num_kv_heads": 2, "new_decoder_architecture": True, "head_dim": None},
    "falcon_h1": {"mamba_d_ssm": 128},
    "gemma2": {"query_pre_attn_scalar": 16, "layer_types": WINDOWS},
    "gemma3_text": {"query_pre_attn_scalar": 16, "layer_types": WINDOWS},
    "gemma3n_text": {
        "layer_types": WINDOWS, "num_kv_shared_layers": 0, "laurel_rank": 16, "altup_num_inputs": 4,
        "activation_sparsity_pattern": [0.0] * LAYERS, "intermediate_size": [128] * LAYERS,
    },
    "gemma4_text": {"layer_types": WINDOWS, "global_head_dim": 32, "num_kv_shared_layers": 0},
    "gemma4_unified_text": {
        "layer_types": WINDOWS, "global_head_dim": 32, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0,
    },
    "glm": {"head_dim": 16}, "glm4": {"head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 16},
    "afmoe": {"layer_types": WINDOWS},
    "cohere_compass_text": {
        "layer_types": WINDOWS,
        "rope_parameters": {kind: {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
                            for kind in WINDOWS},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 128, "moe_top_k": 2},
    },
    "gpt_oss": {"layer_types": WINDOWS},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kimi_linear": {"layer_types": TWO_KINDS, "linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"intermediate_size": 64, "intermediate_size_mlp": 128, "num_experts_per_tok": 1,
                    "attention_chunk_size": 32, "interleave_moe_layer_step": 2},
    "mamba2": {"head_dim": 4, "num_heads": 32, "n_groups": 1},
    "minimax": {"layer_types": TWO_KINDS, "block_size": 16},
    "nemotron_h": {"num_hidden_layers": None, "layers_block_type": ["mamba", "attention", "moe"], "n_groups": 1},
    "olmo_hybrid": {"layer_types": TWO_KINDS},
    "qwen3_5_moe_text": {"layer_types": TWO_KINDS},
    "qwen3_5_text": {"layer_types": TWO_KINDS},
    "qwen3_next": {"layer_types": TWO_KINDS},
    "qwen4_exp_text": {
        "layer_types": TWO_KINDS, "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16,
        "indexer_budget": 16, "indexer_compress_ratio": 4,
    },
    "zamba": {"layers_block_type": ["mamba", "hybrid", "hybrid"], "num_hidden_layers": 3, "n_mamba_heads": 2},
    "zaya": {"num_experts_per_tok": 1, "layer_types": ["hybrid", "hybrid_sliding"]},
    "zamba2": {"layers_block_type": ["mamba", "hybrid"], "head_dim": None},
}  # fmt: skip
"""What differs from SIZES; None leaves a value at the family's default."""


def tiny(kind: str, vocabulary: int, tokens: dict[str, int], **changes: Any) -> PreTrainedConfig:
    """The family's configuration with small sizes. tokens: ids of the pad, bos and eos token."""
    values = SIZES | CHANGES.get(kind, {}) | changes
    values |= {"vocab_size": vocabulary, "unpadded_vocab_size": vocabulary, **tokens}
    return CONFIG_MAPPING[kind](**_known(kind, {key: value for key, value in values.items() if value is not None}))


def _known(kind: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values that the family's configuration has, by either of their names."""
    family = CONFIG_MAPPING[kind]
    names = {name for base in family.__mro__ for name in getattr(base, "__annotations__", {})}
    aliases = {*family.attribute_map, *CHANGES.get(kind, {}), "layer_types"}
    if "kv_lora_rank" in names:
        values = values | {"num_key_value_heads": values["num_attention_heads"]}
    known = {
        key: value for key, value in values.items() if key in names or key in aliases & CHANGES.get(kind, {}).keys()
    }
    return known | {key: values[key] for key in ("pad_token_id", "bos_token_id", "eos_token_id", "vocab_size")}


ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")


def with_rope(kind: str, rope: str, limit: int, *sizes: int) -> PreTrainedConfig | None:
    """The tiny configuration of a family with this type of RoPE in all layers, whose frequencies change after `limit`
    tokens; None for a family without RoPE. Raises what the family raises if it does not have this type. `sizes`: more
    arguments of `family_config`.
    """
    config = family_config(kind, *sizes)
    text = config.get_text_config()
    own = getattr(text, "rope_parameters", None)
    if not own:
        return None
    sizes_of_heads = text.to_dict()
    size = sizes_of_heads.get("qk_rope_head_dim") or sizes_of_heads.get("head_dim")
    size = size or text.hidden_size // text.num_attention_heads
    global_size = sizes_of_heads.get("global_head_dim") or size
    factors = {"factor": 4.0, "original_max_position_embeddings": limit}

    def table(own: dict[str, Any], size: int) -> dict[str, Any]:
        count = int(size * (own.get("partial_rotary_factor") or 1.0)) // 2
        values: dict[str, dict[str, Any]] = {
            "default": {},
            "linear": {"factor": 4.0},
            "dynamic": {"factor": 4.0},
            "yarn": factors,
            "llama3": {**factors, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "longrope": {
                **factors, "short_factor": [1.0] * count, "long_factor": [2 + place / 2 for place in range(count)],
                "short_mscale": 1.1, "long_mscale": 1.3,
            },
        }  # fmt: skip
        return {**own, "rope_theta": own.get("rope_theta") or 1e4, "rope_type": rope, **values[rope]}

    by_layer = {key: value for key, value in own.items() if isinstance(value, dict)}
    text.rope_parameters = (
        {key: table(value, global_size if key == "full_attention" else size) for key, value in by_layer.items()}
        if by_layer
        else table(own, size)
    )
    text.max_position_embeddings = limit if rope == "dynamic" else 4 * limit
    if hasattr(text, "original_max_position_embeddings"):
        text.original_max_position_embeddings = limit
    return config


def model_with(rope: str, kind: str = "llama", limit: int = 24, vocabulary: int = 211) -> Any:
    """A model of `with_rope` with fixed weights and large differences between logits."""
    config = with_rope(kind, rope, limit, vocabulary)
    assert config is not None
    config.initializer_range = 0.3
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def _text(kind: str, vocabulary: int, tokens: dict[str, int]) -> dict[str, Any]:
    return {**tiny(kind, vocabulary, tokens).to_dict(), "model_type": kind}


def _with_visual(kind: str, vocabulary: int, tokens: dict[str, int]) -> dict[str, Any]:
    return {"text_config": _text(f"{kind}_text", vocabulary, tokens), "vision_config": VISUAL}


WRAPPERS: dict[str, Callable[[int, dict[str, int]], dict[str, Any]]] = {
    "qwen3_5": lambda vocabulary, tokens: _with_visual("qwen3_5", vocabulary, tokens),
    "qwen3_5_moe": lambda vocabulary, tokens: _with_visual("qwen3_5_moe", vocabulary, tokens),
    "qwen4_exp": lambda vocabulary, tokens: _with_visual("qwen4_exp", vocabulary, tokens),
    "dots3_note": lambda vocabulary, tokens: {
        "text_config": _text("dots3_note_text", vocabulary, tokens),
        "vision_config": {**VISION, "adapter_in_dim": 32, "adapter_out_dim": 64, "num_local_experts": 2,
                          "mlp_layer_types": ["dense"], "moe_intermediate_size": 48},
        "audio_config": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2,
                         "adapter_input_size": 32, "adapter_out_dim": 64, "downsample_hidden_size": 8},
    },
    "gemma3n": lambda vocabulary, tokens: {
        "text_config": _text("gemma3n_text", vocabulary, tokens),
        "audio_config": {"hidden_size": 32, "conf_num_hidden_layers": 1, "conf_num_attention_heads": 2,
                         "sscp_conv_channel_size": [8, 4]},
        "vision_config": {"architecture": "resnet18", "hidden_size": 512, "vocab_size": 8},
    },
    "gemma3": lambda vocabulary, tokens: {
        "text_config": _text("gemma3_text", vocabulary, tokens), "mm_tokens_per_image": 4,
        "vision_config": {**VISION, "model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14},
    },
    "gemma4": lambda vocabulary, tokens: {
        "text_config": _text("gemma4_text", vocabulary, tokens), "audio_config": None,
        "vision_config": {**VISION, "model_type": "gemma4_vision", "num_key_value_heads": 2, "head_dim": 16,
                          "global_head_dim": 16, "patch_size": 4, "position_embedding_size": 16},
    },
    "gemma4_unified": lambda vocabulary, tokens: {
        "text_config": _text("gemma4_unified_text", vocabulary, tokens), "audio_config": None, "vision_config": None,
    },
    "llama4": lambda vocabulary, tokens: {
        "text_config": _text("llama4_text", vocabulary, tokens),
        "vision_config": {**VISION, "image_size": 28, "patch_size": 14, "vision_output_dim": 64,
                          "projector_input_dim": 64, "projector_output_dim": 64},
    },
    "mistral3": lambda vocabulary, tokens: {
        "text_config": _text("ministral3", vocabulary, tokens), "tie_word_embeddings": False,
        "vision_config": {**VISION, "model_type": "pixtral", "head_dim": 16, "image_size": 28, "patch_size": 14},
    },
    "qwen3_vl": lambda vocabulary, tokens: {
        "text_config": {**_text("qwen3", vocabulary, tokens), "model_type": "qwen3_vl_text",
                        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}},
        "vision_config": {**VISUAL, "deepstack_visual_indexes": [0]},
    },
}  # fmt: skip
"""Multimodal models whose text is trained."""
NOT_TEXT = {
    "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "blenderbot", "blenderbot-small", "camembert",
    "data2vec-text", "electra", "emu3", "ernie", "fuyu", "gemma4_assistant",
    "gemma4_unified_assistant", "git", "got_ocr2", "marian", "mbart", "megatron-bert",
    "mllama", "moshi", "moss_transcribe_diarize", "musicgen", "musicgen_melody", "mvp", "pegasus",
    "phi4_multimodal", "plbart", "prophetnet", "reformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert",
    "roformer", "trocr", "whisper", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xmod",
}  # fmt: skip
"""Families in transformers' list of causal language models that are encoders, parts of encoder-decoders, or write
images or sound.
"""


def installed_families() -> list[str]:
    """Every family of the installed transformers that generates text from text."""
    known = {kind for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if kind in CONFIG_MAPPING_NAMES}
    return sorted((known | set(WRAPPERS)) - NOT_TEXT)


def family_config(kind: str, vocabulary: int = 512, pad: int = 0, bos: int = 1, eos: int = 2) -> PreTrainedConfig:
    """The tiny configuration of a family. Raises what its class raises if it cannot be made so small."""
    tokens = {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    if kind in WRAPPERS:
        return AutoConfig.for_model(kind, **WRAPPERS[kind](vocabulary, tokens))
    return tiny(kind, vocabulary, tokens)
