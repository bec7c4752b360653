"""Read a model's shape from its `config.json`, under one name for each size that the formula needs.

Imports no torch. Biases, norms inside attention and other small parts are ignored, which is less than 1% of any model;
the dry run builds the real class.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from engine.config.errors import UserError

TIED = {
    "gpt2",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "opt",
    "bloom",
    "falcon",
    "gpt_bigcode",
    "cohere",
    "cohere2",
}
"""Model types with tied embeddings by default (transformers 5), if the configuration does not give it."""
UNGATED = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "gpt_bigcode", "starcoder2", "mpt"}
"""Model types with an MLP of two layers; all others have a gated MLP."""
QKV = {"gpt2", "gpt_neox", "bloom", "falcon", "gpt_bigcode", "mpt", "phi3"}
"""Model types with one layer for query, key and value, whose adapters are smaller."""
HEAD_NORMS = {"qwen3", "qwen3_moe", "gemma3", "gemma3_text"}
"""Model types that normalize queries and keys."""
FOUR_NORMS = {"gemma2", "gemma3", "gemma3_text"}
"""Model types with a norm before and after attention and MLP; all others have the two before them."""
FLOAT32_NORMS = {"gemma", *FOUR_NORMS}
"""Model types that multiply by the weight of a norm in float32."""
ACTIVATION = ("hidden_act", "activation_function", "hidden_activation")
ATTENTION_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Linear:
    """A linear layer of a decoder layer: y = W x with W (out, in)."""

    name: str
    inputs: int
    outputs: int
    read: str
    """Name of its input; linear layers with the same input share the tensor that autograd saves."""

    @property
    def weights(self) -> int:
        """Elements of W."""
        return self.inputs * self.outputs


@dataclass(frozen=True)
class Architecture:
    """Sizes in elements; all decoder layers are assumed to be equal."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    """Number of learned position embeddings, 0 with rotary embeddings."""
    tied: bool
    gated: bool
    fused_qkv: bool
    experts: int
    experts_used: int
    expert_intermediate: int
    activation: str = ""
    """Activation function of the MLP, by transformers' name."""
    attention_dropout: bool = False
    """Whether attention uses dropout in training."""
    norms: int = 2
    """Norms of the hidden size per layer."""
    head_norms: bool = False
    """Whether queries and keys are normalized."""
    float32_norms: bool = False
    """Whether norms multiply by their weight in float32."""
    windowed: bool = False
    """Whether some layer uses sliding-window attention, whose cache is limited to the window."""

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

    def linears(self) -> Iterator[Linear]:
        """The linear layers of a decoder layer that are separate modules. Experts are not: transformers 5 stores them
        in one tensor, which bitsandbytes does not quantize.
        """
        if self.fused_qkv:
            yield Linear("qkv", self.hidden, self.query + 2 * self.key, "block")
        else:
            yield Linear("q_proj", self.hidden, self.query, "block")
            yield Linear("k_proj", self.hidden, self.key, "block")
            yield Linear("v_proj", self.hidden, self.key, "block")
        yield Linear("o_proj", self.query, self.hidden, "attention")
        if not self.experts:
            if self.gated:
                yield Linear("gate_proj", self.hidden, self.intermediate, "mlp")
            yield Linear("up_proj", self.hidden, self.intermediate, "mlp")
            yield Linear("down_proj", self.intermediate, self.hidden, "product")

    @property
    def largest_linear(self) -> int:
        """Weights of the largest of them; 0 if there is none."""
        return max((linear.weights for linear in self.linears()), default=0)

    @property
    def expert_weights(self) -> int:
        """Parameters of the gated experts and the router of one layer."""
        return self.experts * (3 * self.hidden * self.expert_intermediate + self.hidden)

    @property
    def embeddings(self) -> int:
        """Parameters of embeddings, positions and, unless tied, LM head: V d + P d (+ V d)."""
        return (self.vocabulary * (1 if self.tied else 2) + self.positions) * self.hidden


def read_architecture(model_config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Read a parsed `config.json`. Raises UserError if it is not that of a decoder."""
    model_config = {**model_config, **model_config.get("text_config", {})}
    kind = model_config.get("model_type", "")
    hidden = _positive(model_config, where, "hidden_size", "n_embd", "d_model", "dim")
    heads = _positive(model_config, where, "num_attention_heads", "n_head", "num_heads", "n_heads")
    intermediate = _positive(
        model_config, where, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", otherwise=4 * hidden
    )
    experts = _positive(model_config, where, "num_experts", "num_local_experts", "n_routed_experts", otherwise=0)
    return Architecture(
        layers=_positive(model_config, where, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=_positive(model_config, where, "num_key_value_heads", otherwise=heads),
        head_dim=_positive(model_config, where, "head_dim", otherwise=hidden // heads),
        vocabulary=_positive(model_config, where, "vocab_size"),
        positions=_positive(model_config, where, "n_positions", otherwise=0) if kind == "gpt2" else 0,
        tied=bool(model_config.get("tie_word_embeddings", kind in TIED)),
        gated=kind not in UNGATED,
        fused_qkv=kind in QKV,
        experts=experts,
        experts_used=_positive(model_config, where, "num_experts_per_tok", "moe_top_k", otherwise=2) if experts else 0,
        expert_intermediate=_positive(model_config, where, "moe_intermediate_size", otherwise=intermediate)
        if experts
        else 0,
        activation=_activation(model_config, kind),
        attention_dropout=any(model_config.get(name) for name in ATTENTION_DROPOUT),
        norms=4 if kind in FOUR_NORMS else 2,
        head_norms=kind in HEAD_NORMS,
        float32_norms=kind in FLOAT32_NORMS,
        windowed=_windowed(model_config),
    )


def _windowed(model_config: Mapping[str, Any]) -> bool:
    if isinstance(kinds := model_config.get("layer_types"), list):
        return any(kind != "full_attention" for kind in kinds)
    return bool(model_config.get("sliding_window")) and model_config.get("use_sliding_window") is not False


def _activation(model_config: Mapping[str, Any], kind: str) -> str:
    named = next((model_config[name] for name in ACTIVATION if model_config.get(name)), None)
    return str(named or ("gelu_new" if kind == "gpt2" else ""))


def _positive(model_config: Mapping[str, Any], where: str, *names: str, otherwise: int | None = None) -> int:
    for name in names:
        value = model_config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if otherwise is None:
        what, do = f"missing {names[0]} in the model configuration", "use the config.json of a causal LM"
        raise UserError(what, where, do, code="model.config_incomplete")
    return otherwise
