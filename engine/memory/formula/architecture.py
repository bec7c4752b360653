"""Read a model's shape from its `config.json`, under one name for each size that the formula needs.

Imports no torch. Biases, norms inside attention and other small parts are ignored, which is less than 1% of any model;
the dry run builds the real class. Decoder layers may differ: some mix tokens by attention, others by linear attention
(gated delta rule), a state space (Mamba) or a short convolution, some have experts and others a dense MLP. Sizes are
found by the names that transformers gives them, not by model type, so that a new family with known parts is read too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

from engine.config.errors import UserError
from engine.config.model_config import WINDOWS_BY_SEGMENTS, RowSeparation, head_sizes, row_separation, text_config

TIED = {
    "gpt2", "gemma", "gemma2", "gemma3", "gemma3_text", "opt", "bloom", "falcon", "gpt_bigcode", "cohere", "cohere2",
    "gemma3n", "gemma3n_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text", "lfm2", "lfm2_moe",
    "smollm3",
}  # fmt: skip
"""Model types with tied embeddings by default (transformers 5), if the configuration does not give it."""
UNGATED = {
    "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "gpt_bigcode", "starcoder2", "mpt",
    "nemotron", "nemotron_h",
}  # fmt: skip
"""Model types with an MLP of two layers; all others have a gated MLP."""
QKV = {"gpt2", "gpt_neox", "bloom", "falcon", "gpt_bigcode", "mpt", "phi3"}
"""Model types with one layer for query, key and value, whose adapters are smaller."""
FUSED_GATE = {"phi3", "glm", "glm4", "granitemoehybrid", "granitemoeshared"}
"""Model types with one layer for both inputs of a gated MLP."""
QUERY_GATE = {"qwen3_next", "qwen3_5", "qwen3_5_text", "qwen3_5_moe", "qwen3_5_moe_text"}
"""Model types whose query layer also computes a gate of attention's output."""
GEMMA3 = {"gemma3", "gemma3_text", "gemma3n", "gemma3n_text"}
GEMMA4 = {"gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"}
HEAD_NORMS = {"qwen3", "qwen3_moe", "olmo2", "olmo3", *QUERY_GATE, *GEMMA3, *GEMMA4}
"""Model types that normalize queries and keys."""
FOUR_NORMS = {"gemma2", *GEMMA3, *GEMMA4}
"""Model types with a norm before and after attention and MLP; all others have the two before them."""
FLOAT32_NORMS = {"gemma", *FOUR_NORMS}
"""Model types that multiply by the weight of a norm in float32."""
SINKS = {
    "deepseek_v4", "flint", "gpt_oss", "granite_swa", "granitemoe_swa", "hy_v4", "inkling2_loop_text", "inkling2_text",
    "mimo_v2_flash",
}  # fmt: skip
"""Model types whose attention has a learned sink in its softmax, which is computed in the activations' data type."""
WITHOUT_SDPA = SINKS | {
    "bloom", "cpmant", "gemma2", "gpt_neo", "gpt_neox_japanese", "mpt", "openai-gpt", "vaultgemma", "xglm",
}  # fmt: skip
"""Model types whose attention torch has no fused kernel for: transformers computes all its scores (eager)."""
ACTIVATION = ("hidden_act", "activation_function", "hidden_activation", "mlp_hidden_act")
ATTENTION_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")
NO_FORMULA = frozenset({"blt", "rwkv"})
"""Model types whose sizes are not read: a byte-level model of several transformers, and one without attention heads."""
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
LAYER_TYPES = ("layer_types", "layers_block_type", "layer_block_types", "block_types")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index")
"""Names of the number of layers with a dense MLP before those with experts."""
MIXERS = {"linear_attention", "mamba", "mamba2", "conv", "short_conv", "recurrent"}
"""Kinds of layers that mix tokens without softmax attention."""
PATTERN = {"M": "mamba", "*": "full_attention", "-": "mlp", "E": "moe"}
"""Letters of Nemotron-H's `hybrid_override_pattern`, where a layer is one of these."""
PER_LAYER_HEAD = 512
"""Head size of full attention in Gemma 4, if the configuration does not give it."""
DELTA_CHUNK = 64
"""Tokens that the gated delta rule computes at a time (transformers, torch_chunk_gated_delta_rule)."""


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder layer: y = W x with W (out, in)."""

    name: str
    inputs: int
    outputs: int
    read: str
    """Name of its input; linear layers with the same input share the tensor that autograd saves."""
    read_directly: bool = False
    """Whether the model's code reads its weight without calling it: then it is neither adapted nor quantized
    (`methods.weights`).
    """

    @property
    def weights(self) -> int:
        """Elements of W."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Architecture:
    """Sizes in elements. Those of a decoder layer are of the layer that needs most; `kinds` has all of them."""

    layers: int
    hidden: int
    intermediate: int
    """Width of the dense MLP, 0 without one."""
    heads: int
    """0 where a layer has no attention, as `kv_heads`."""
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    """Number of learned position embeddings, 0 with rotary embeddings."""
    tied: bool
    gated: bool
    fused_qkv: bool
    experts: int = 0
    experts_used: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    """Width of the dense MLP that every token passes in addition to its experts."""
    activation: str = ""
    """Activation function of the MLP, by transformers' name."""
    value_dim: int = 0
    """Elements of a value per head where keys have another size; 0 where they are equal."""
    attention_dropout: bool = False
    """Whether attention uses dropout in training."""
    norms: int = 2
    """Norms of the hidden size per layer."""
    head_norms: bool = False
    """Whether queries and keys are normalized."""
    float32_norms: bool = False
    """Whether norms multiply by their weight in float32."""
    fused_attention: bool = True
    """Whether a fused kernel computes attention (SDPA) without all its scores."""
    sinks: bool = False
    """Whether attention has sinks."""
    windowed: bool = False
    """Whether some layer has another cache than all keys and values: that of a sliding window, or a state."""
    windows_by_segments: bool = False
    """Whether attention over segments computes its sliding windows."""
    fused_gate: bool = False
    """Whether one linear layer computes both inputs of a gated MLP."""
    query_gate: bool = False
    """Whether the query layer also computes a gate of attention's output."""
    own_keys: bool = True
    """False where a layer attends to the keys and values of an earlier layer."""
    own_values: bool = True
    """False where keys are used as values too."""
    mixer: tuple[Linear, ...] = ()
    """Linear layers that mix tokens, if they are not those of common attention."""
    mixer_saved: int = 0
    """Float32 elements per token that a mixer without attention saves for its backward pass."""
    mixer_running: int = 0
    """Float32 elements per token that exist at once while such a mixer runs without gradients."""
    mixer_weights: int = 0
    """Parameters of such a mixer outside its linear layers."""
    layer_embedding: int = 0
    """Elements per token that each layer gets from an embedding of its own (Gemma 3n and 4)."""
    layer_vocabulary: int = 0
    """Tokens of that embedding."""
    tower: int = 0
    """Parameters of vision and audio towers, which are loaded and not trained."""
    separation: RowSeparation = "unknown"
    """Whether packed rows influence each other (`engine.config.model_config`)."""
    kinds: tuple[Architecture, ...] = ()
    """One for each kind of decoder layer, where they differ; their `layers` add up to those of the model."""

    def groups(self) -> tuple[Architecture, ...]:
        """One for each kind of decoder layer, with the number of its layers."""
        return self.kinds or (self,)

    @property
    def normed(self) -> int:
        """Elements per token that the norms of a layer read."""
        return self.norms * self.hidden + self.head_norms * (self.query + self.key)

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linear layers of a decoder layer that are separate modules. Experts are not: transformers 5 stores them
        in one tensor.
        """
        linears = list(self.mixer or self.attention())
        width = self.shared_intermediate if self.experts else self.intermediate
        if width:
            if self.gated and self.fused_gate:
                linears.append(Linear("gate_up_proj", self.hidden, 2 * width, "mlp"))
            else:
                if self.gated:
                    linears.append(Linear("gate_proj", self.hidden, width, "mlp"))
                linears.append(Linear("up_proj", self.hidden, width, "mlp"))
            linears.append(Linear("down_proj", width, self.hidden, "product"))
        if self.layer_embedding:
            linears.append(Linear("per_layer_input_gate", self.hidden, self.layer_embedding, "layer_input"))
            linears.append(Linear("per_layer_projection", self.layer_embedding, self.hidden, "layer_embedding"))
        return tuple(linears)

    def attention(self) -> Iterator[Linear]:
        """The linear layers of common attention; none without heads."""
        if not self.heads:
            return
        if self.fused_qkv:
            yield Linear("qkv", self.hidden, self.query + 2 * self.key, "block")
        else:
            yield Linear("q_proj", self.hidden, self.query * (1 + self.query_gate), "block")
            if self.own_keys:
                yield Linear("k_proj", self.hidden, self.key, "block")
            if self.own_keys and self.own_values:
                yield Linear("v_proj", self.hidden, self.key, "block")
        yield Linear("o_proj", self.query, self.hidden, "attention")

    @cached_property
    def largest_linear(self) -> int:
        """Weights of the largest of them; 0 if there is none."""
        return max((linear.weights for kind in self.groups() for linear in kind.linears), default=0)

    @property
    def expert_weights(self) -> int:
        """Parameters of the experts and the router of one layer."""
        matrices = 3 if self.gated else 2
        return self.experts * (matrices * self.hidden * self.expert_intermediate + self.hidden)

    @property
    def layer_weights(self) -> int:
        """Parameters of one decoder layer outside its linear layers: norms, experts, and what mixes tokens."""
        return self.norms * self.hidden + self.expert_weights + self.mixer_weights

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings, positions and, unless tied, LM head: V d + P d (+ V d); with an embedding for each
        layer also this one and its projection.
        """
        own = self.layers * self.layer_embedding * (self.layer_vocabulary + self.hidden)
        return (self.vocabulary * (1 if self.tied else 2) + self.positions) * self.hidden + own


def read_architecture(model_config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Read a parsed `config.json`. Raises UserError if it is not that of a decoder.

    Of a multimodal model the language model is read, and the parameters of its towers are counted.
    """
    return _read(json.dumps(model_config, default=str), where)


@lru_cache(maxsize=64)  # a plan asks for it once per size that it tries
def _read(content: str, where: str) -> Architecture:
    model_config = json.loads(content)
    text = text_config(model_config)
    if (kind := str(text.get("model_type"))) in NO_FORMULA:
        problem, hint = f"no memory formula for models of type {kind}", "start a run, which needs none"
        raise UserError(problem, where, hint, code="model.no_formula")
    hidden, blocks = _required(text, where, "hidden_size", "n_embd", "d_model", "dim"), _blocks(text, where)
    heads = _size(text, *HEADS, otherwise=1) if text.get("state_size") else _required(text, where, *HEADS)
    intermediate = _size(text, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", otherwise=4 * hidden)
    if text.get("block_auto_adjust_ff_dim"):  # LFM2
        given = text.get("block_ff_dim") or intermediate
        whole = int((text.get("block_ffn_dim_multiplier") or 1) * int(2 * given / 3))
        multiple = text.get("block_multiple_of") or 1
        intermediate = -(-whole // multiple) * multiple
    key, value = head_sizes(text)
    towers = (model_config.get(name) for name in ("vision_config", "audio_config"))

    # As if all decoder layers were equal, with attention and a dense MLP; then each layer with what it has instead.
    model = Architecture(
        layers=len(blocks),
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=_size(text, "num_key_value_heads", otherwise=heads),
        head_dim=_size(text, "head_dim", otherwise=max(1, hidden // heads)),
        vocabulary=_required(text, where, "vocab_size"),
        positions=_size(text, "n_positions") if kind == "gpt2" else 0,
        tied=bool(text.get("tie_word_embeddings", text.get("tie_embedding", kind in TIED))),
        gated=kind not in UNGATED,
        fused_qkv=kind in QKV,
        activation=str(next(filter(None, map(text.get, ACTIVATION)), "gelu_new" if kind == "gpt2" else "")),
        value_dim=value if key != value else 0,
        attention_dropout=any(text.get(name) for name in ATTENTION_DROPOUT),
        norms=(4 if kind in FOUR_NORMS else 2) + (kind in GEMMA4 and bool(text.get("hidden_size_per_layer_input"))),
        head_norms=kind in HEAD_NORMS,
        float32_norms=kind in FLOAT32_NORMS,
        fused_attention=kind not in WITHOUT_SDPA,
        sinks=kind in SINKS,
        windowed=_windowed(text),
        windows_by_segments=kind in WINDOWS_BY_SEGMENTS,
        separation=row_separation(text),
        fused_gate=kind in FUSED_GATE,
        query_gate=kind in QUERY_GATE,
        layer_embedding=_size(text, "hidden_size_per_layer_input"),
        layer_vocabulary=_size(text, "vocab_size_per_layer_input"),
        tower=sum(_tower(section, hidden) for section in towers),
    )
    layers = [_layer(model, text, number, block, blocks) for number, block in enumerate(blocks)]
    kinds = tuple(replace(kind, layers=count) for kind, count in Counter(layers).items())
    if len(kinds) == 1:
        return kinds[0]
    most = max(kinds, key=lambda kind: sum(linear.weights for linear in kind.linears) + kind.expert_weights)
    attention = max(kinds, key=lambda kind: kind.query + kind.key)
    sizes = {name: getattr(attention, name) for name in ("heads", "kv_heads", "head_dim")}
    return replace(most, **sizes, layers=len(blocks), kinds=kinds)


def _blocks(text: Mapping[str, Any], where: str) -> list[str]:
    """The kind of each decoder layer, by transformers' names."""
    if isinstance(pattern := text.get("hybrid_override_pattern"), str) and pattern:
        return [PATTERN.get(letter, letter) for letter in pattern]
    kinds = _layer_types(text) or []
    if kinds and not any(isinstance(text.get(name), int) for name in LAYERS):
        return [str(kind) for kind in kinds]
    count = _required(text, where, *LAYERS)
    if len(kinds) == count:
        return [str(kind) for kind in kinds]
    if every := text.get("full_attention_interval") or (4 if text.get("linear_num_value_heads") else 0):
        return ["full_attention" if (number + 1) % every == 0 else "linear_attention" for number in range(count)]
    attention = text.get("full_attn_idxs") or text.get("attn_layer_indices")
    if isinstance(attention, list):
        other = "conv" if text.get("conv_L_cache") else "mamba"
        return ["full_attention" if number in attention else other for number in range(count)]
    is_mamba = not any(text.get(name) for name in HEADS) and text.get("state_size")
    return ["mamba" if is_mamba else "full_attention"] * count


def _layer(
    model: Architecture, text: Mapping[str, Any], number: int, block: str, blocks: Sequence[str]
) -> Architecture:
    """One decoder layer of the model, as an architecture of one layer: what mixes tokens, and its MLP."""
    layer = replace(model, layers=1)
    alone = any(kind in ("mlp", "moe") for kind in blocks)  # Nemotron-H: a mixer or an MLP, with one norm
    if alone:
        layer = replace(layer, norms=1)
    if block in ("mlp", "moe"):
        layer = replace(layer, heads=0, kv_heads=0)
    elif block in MIXERS:
        layer = _other_mixer(layer, text)
    else:
        layer = _attention(layer, text, number, block)
    if alone and block not in ("mlp", "moe"):
        return replace(layer, intermediate=0)

    # A dense MLP, or experts with or without a dense MLP that all tokens pass.
    experts = _size(text, *EXPERTS)
    dense_size = _size(text, "shared_expert_intermediate_size", "shared_intermediate_size")
    dense_size = dense_size or _size(text, "moe_shared_expert_intermediate_size")
    if not experts or not _is_sparse(text, number, block):
        return replace(layer, intermediate=dense_size if dense_size and not experts else layer.intermediate)
    width = _size(text, "moe_intermediate_size", "expert_ffn_hidden_size", otherwise=layer.intermediate)
    shared = _size(text, "n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
    if text.get("enable_moe_block"):  # Gemma 4
        dense_size, norms = layer.intermediate, layer.norms + 3
        layer = replace(layer, norms=norms)
    return replace(
        layer,
        experts=experts,
        experts_used=_size(text, "num_experts_per_tok", "top_k_experts", "moe_top_k", "moe_topk", "moe_k", otherwise=2),
        expert_intermediate=width,
        shared_intermediate=dense_size or shared * width,
        intermediate=0,
    )


def _is_sparse(text: Mapping[str, Any], number: int, block: str) -> bool:
    """Whether the MLP of a decoder layer consists of experts, in a model that has some."""
    if block in ("mlp", "moe"):
        return block == "moe"
    if isinstance(kinds := text.get("mlp_layer_types"), list) and len(kinds) > number:
        return kinds[number] != "dense"
    if isinstance(sparse := text.get("moe_layers"), list) and sparse:
        return number in sparse
    dense = max(_count(text.get(name)) for name in DENSE_FIRST)
    every = max(1, _count(text.get("decoder_sparse_step")))
    return number >= dense and number not in (text.get("mlp_only_layers") or []) and (number + 1) % every == 0


def _attention(layer: Architecture, text: Mapping[str, Any], number: int, block: str) -> Architecture:
    """A layer with softmax attention, with what differs in its kind."""
    kind = text.get("model_type", "")
    shared = _size(text, "num_kv_shared_layers")
    reuses = number >= _size(text, *LAYERS, otherwise=number + 1 + shared) - shared if shared else False
    if reuses:
        wide = 2 if text.get("use_double_wide_mlp") else 1
        layer = replace(layer, own_keys=False, intermediate=wide * layer.intermediate)
    own = (text.get("per_layer_config") or {}).get(number) or (text.get("per_layer_config") or {}).get(str(number), {})
    if kind in GEMMA4 and block == "full_attention":
        merged = {"head_dim": text.get("global_head_dim") or PER_LAYER_HEAD, **own}
        alike = bool(text.get("attention_k_eq_v", "unified" in kind))
        if alike and (few := text.get("num_global_key_value_heads")):
            merged.setdefault("num_key_value_heads", few)
        layer = replace(
            layer,
            head_dim=merged["head_dim"],
            kv_heads=merged.get("num_key_value_heads") or layer.kv_heads,
            own_values=not alike,
        )
    if latent := _size(text, "kv_lora_rank"):  # compressed keys and values (DeepSeek's MLA)
        low, rotary = _size(text, "q_lora_rank"), _size(text, "qk_rope_head_dim")
        plain = _size(text, "qk_nope_head_dim", otherwise=layer.head_dim)
        value, query = layer.heads * _size(text, "v_head_dim", otherwise=plain), layer.heads * (plain + rotary)
        queries = [Linear("q_proj", layer.hidden, query, "block")]
        if low:
            queries = [Linear("q_a_proj", layer.hidden, low, "block"), Linear("q_b_proj", low, query, "query")]
        others = (
            Linear("kv_a_proj_with_mqa", layer.hidden, latent + rotary, "block"),
            Linear("kv_b_proj", latent, layer.heads * plain + value, "latent"),
            Linear("o_proj", value, layer.hidden, "attention"),
        )
        layer = replace(layer, kv_heads=layer.heads, head_dim=plain + rotary, mixer=(*queries, *others))
    if text.get("mamba_d_ssm"):  # Falcon-H1: attention and a state space in every layer
        state = _other_mixer(layer, text)
        return replace(
            layer,
            mixer=(*layer.attention(), *state.mixer),
            mixer_saved=state.mixer_saved,
            mixer_weights=state.mixer_weights,
        )
    return layer


def _other_mixer(layer: Architecture, text: Mapping[str, Any]) -> Architecture:
    """A layer that mixes tokens without softmax attention: the gated delta rule, a short convolution or Mamba."""
    hidden = layer.hidden
    linears: tuple[Linear, ...]
    none = replace(layer, heads=0, kv_heads=0, head_norms=False)
    if values := _size(text, "linear_num_value_heads"):
        key_width = _size(text, "linear_key_head_dim", otherwise=128)
        wide = values * _size(text, "linear_value_head_dim", otherwise=128)
        key = key_width * _size(text, "linear_num_key_heads", otherwise=16)
        kernel = _size(text, "linear_conv_kernel_dim", otherwise=4)
        linears = (
            Linear("in_proj_qkv", hidden, 2 * key + wide, "block"),
            Linear("in_proj_z", hidden, wide, "block"),
            Linear("in_proj_b", hidden, values, "block"),
            Linear("in_proj_a", hidden, values, "block"),
            Linear("out_proj", wide, hidden, "attention"),
        )
        # transformers' reference implementation; queries and keys are repeated for each value head.
        chunk = DELTA_CHUNK
        saved = 11 * values * key_width + 5 * wide + values * (5 * chunk + 2 * key_width * wide // values // chunk)
        # Inputs and results of the triangular systems, queries and keys with their decay, the output, three matrices of
        # a chunk; and what the convolution reads and writes, in 16 bits.
        running = 6 * values * key_width + 4 * wide + 3 * values * chunk + 2 * key + wide + wide // 2
        return replace(
            none,
            mixer=linears,
            mixer_saved=saved,
            mixer_running=running,
            mixer_weights=kernel * (2 * key + wide),
        )
    if kernel := _size(text, "conv_L_cache"):
        linears = (Linear("in_proj", hidden, 3 * hidden, "block"), Linear("out_proj", hidden, hidden, "attention"))
        return replace(none, mixer=linears, mixer_saved=3 * hidden, mixer_weights=kernel * hidden)
    return _mamba(none, text)


def _mamba(layer: Architecture, text: Mapping[str, Any]) -> Architecture:
    """A layer with a state space: Mamba 2, or Mamba 1 where there are no heads."""
    hidden = layer.hidden
    linears: tuple[Linear, ...]
    heads = _size(text, "mamba_n_heads", "mamba_num_heads", "num_heads", "n_mamba_heads")
    state = _size(text, "mamba_d_state", "ssm_state_size", "state_size", otherwise=128)
    expand = _size(text, "mamba_expand", "expand", otherwise=2)
    inner = _size(text, "mamba_d_ssm", otherwise=expand * hidden)
    if "mamba_num_heads" in text:
        inner = heads * _size(text, "mamba_head_dim", otherwise=64)
    kernel = _size(text, "mamba_d_conv", "conv_kernel", otherwise=4)
    if not heads or "mamba_dt_rank" in text:
        rank = _size(text, "time_step_rank", "mamba_dt_rank", otherwise=-(-hidden // 16))
        linears = (
            Linear("in_proj", hidden, 2 * inner, "block"),
            Linear("x_proj", inner, rank + 2 * state, "convolved", read_directly=True),
            Linear("dt_proj", rank, inner, "step", read_directly=True),
            Linear("out_proj", inner, hidden, "attention", read_directly=True),
        )
        return replace(
            layer, mixer=linears, mixer_saved=inner * (6 + 3 * state), mixer_weights=inner * (kernel + state)
        )
    groups = _size(text, "mamba_n_groups", "n_groups", otherwise=1)
    mixed = inner + 2 * groups * state
    linears = (
        Linear("in_proj", hidden, inner + mixed + heads, "block"),
        Linear("out_proj", inner, hidden, "attention", read_directly=True),
    )
    chunk = _size(text, "mamba_chunk_size", "chunk_size", otherwise=256)
    saved = 6 * inner + heads * (4 * state + 3 * chunk)
    return replace(layer, mixer=linears, mixer_saved=saved, mixer_weights=(kernel + 1) * mixed + inner)


def _tower(config: Any, hidden: int) -> int:
    """Parameters of a vision or audio tower with its projection, from its section of the configuration; 0 without."""
    if not isinstance(config, Mapping):
        return 0
    width, layers = _count(config.get("hidden_size")), _count(config.get("depth") or config.get("num_hidden_layers"))
    kind = str(config.get("model_type", ""))
    if "audio" in kind and "gemma4" in kind:  # conformer: attention, two MLPs and a convolution
        return layers * 24 * width**2
    inner = _count(config.get("intermediate_size"))
    patch = _count(config.get("patch_size")) ** 2 * 3 * max(1, _count(config.get("temporal_patch_size")))
    places = _count(config.get("num_position_embeddings")) or 2 * _count(config.get("position_embedding_size"))
    merged = _count(config.get("spatial_merge_size")) ** 2 or (4 if kind == "pixtral" else 0)
    matrices = 3 if kind == "pixtral" or "gemma4" in kind else 2
    projection = (merged * width) ** 2 + merged * width * hidden if kind != "pixtral" else 0
    if kind == "pixtral":  # Mistral 3: patches are merged at their own width
        projection = merged * width**2 + width * hidden + hidden**2
    elif not merged:
        projection = width * hidden
    return layers * (4 * width**2 + matrices * width * inner) + width * (patch + places) + projection


def _layer_types(text: Mapping[str, Any]) -> list[Any] | None:
    return next((text[name] for name in LAYER_TYPES if isinstance(text.get(name), list)), None)


def _windowed(text: Mapping[str, Any]) -> bool:
    kinds = _layer_types(text)
    if kinds is not None:
        return any(kind not in ("full_attention", "attention") for kind in kinds)
    if any(text.get(name) for name in ("linear_num_value_heads", "conv_L_cache", "mamba_d_state", "state_size")):
        return True
    return bool(text.get("sliding_window")) and text.get("use_sliding_window") is not False


def _count(value: Any) -> int:
    """A number of the configuration, 0 if there is none; the first of a list."""
    value = value[0] if isinstance(value, list) and value else value
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _size(text: Mapping[str, Any], *names: str, otherwise: int = 0) -> int:
    """The first of these sizes that the configuration has."""
    return next(filter(None, (_count(text.get(name)) for name in names)), otherwise)


def _required(text: Mapping[str, Any], where: str, *names: str) -> int:
    if value := _size(text, *names):
        return value
    problem, hint = f"missing {names[0]} in the model configuration", "use the config.json of a causal LM"
    raise UserError(problem, where, hint, code="model.config_incomplete")
