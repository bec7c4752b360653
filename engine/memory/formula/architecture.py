"""A model's shape from its `config.json`: what the formula needs to know, under one name for each thing.

Imports no torch. Architectures differ more than this says: biases, norms inside attention and the like are left out,
which is less than a hundredth of any model. The dry run builds the real class.
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
"""Types whose head is the embedding where the configuration does not say: their classes' defaults in transformers 5."""
UNGATED = {"gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "bloom", "falcon", "phi", "gpt_bigcode", "starcoder2", "mpt"}
"""Types whose MLP is two layers; all others have a gate beside the first."""
QKV = {"gpt2", "gpt_neox", "bloom", "falcon", "gpt_bigcode", "mpt", "phi3"}
"""Types with one layer for query, key and value: their adapters are smaller."""
ACTIVATION = ("hidden_act", "activation_function", "hidden_activation")
ATTENTION_DROPOUT = ("attn_pdrop", "attention_dropout", "attention_probs_dropout_prob")


@dataclass(frozen=True)
class Linear:
    """A layer of a decoder block: y = W x with W (out, in)."""

    name: str
    inputs: int
    outputs: int
    read: str
    """What it reads; layers that read the same share the copy that autograd keeps."""


@dataclass(frozen=True)
class Architecture:
    """Sizes in elements; one decoder block is like another."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int
    """Learned position embeddings, 0 where positions are rotated in."""
    tied: bool
    gated: bool
    fused_qkv: bool
    experts: int
    experts_used: int
    expert_intermediate: int
    activation: str = ""
    """The MLP's, by transformers' name."""
    attention_dropout: bool = False
    """Whether attention itself is dropped from while training."""
    windowed: bool = False
    """Whether some block sees a window alone, and its cache holds no more."""

    @property
    def query(self) -> int:
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        return self.kv_heads * self.head_dim

    def linears(self) -> Iterator[Linear]:
        """The linear layers of a block that are modules of their own. Experts are not: transformers 5 keeps them in
        one tensor, which bitsandbytes does not quantize.
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
    def expert_weights(self) -> int:
        """Of one block: experts, each gated, and the router."""
        return self.experts * (3 * self.hidden * self.expert_intermediate + self.hidden)

    @property
    def embeddings(self) -> int:
        """Embedding, positions and, unless it is tied, the head: V d + P d (+ V d)."""
        return (self.vocabulary * (1 if self.tied else 2) + self.positions) * self.hidden


def read_architecture(table: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """From a parsed `config.json`. Raises UserError where it is not a decoder's."""
    table = {**table, **table.get("text_config", {})}
    kind = table.get("model_type", "")
    hidden = _whole(table, where, "hidden_size", "n_embd", "d_model", "dim")
    heads = _whole(table, where, "num_attention_heads", "n_head", "num_heads", "n_heads")
    intermediate = _whole(
        table, where, "intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size", otherwise=4 * hidden
    )
    experts = _whole(table, where, "num_experts", "num_local_experts", "n_routed_experts", otherwise=0)
    return Architecture(
        layers=_whole(table, where, "num_hidden_layers", "n_layer", "num_layers", "n_layers"),
        hidden=hidden,
        intermediate=intermediate,
        heads=heads,
        kv_heads=_whole(table, where, "num_key_value_heads", otherwise=heads),
        head_dim=_whole(table, where, "head_dim", otherwise=hidden // heads),
        vocabulary=_whole(table, where, "vocab_size"),
        positions=_whole(table, where, "n_positions", otherwise=0) if kind == "gpt2" else 0,
        tied=bool(table.get("tie_word_embeddings", kind in TIED)),
        gated=kind not in UNGATED,
        fused_qkv=kind in QKV,
        experts=experts,
        experts_used=_whole(table, where, "num_experts_per_tok", "moe_top_k", otherwise=2) if experts else 0,
        expert_intermediate=_whole(table, where, "moe_intermediate_size", otherwise=intermediate) if experts else 0,
        activation=_activation(table, kind),
        attention_dropout=any(table.get(name) for name in ATTENTION_DROPOUT),
        windowed=_windowed(table),
    )


def _windowed(table: Mapping[str, Any]) -> bool:
    if isinstance(kinds := table.get("layer_types"), list):
        return any(kind != "full_attention" for kind in kinds)
    return bool(table.get("sliding_window")) and table.get("use_sliding_window") is not False


def _activation(table: Mapping[str, Any], kind: str) -> str:
    named = next((table[name] for name in ACTIVATION if table.get(name)), None)
    return str(named or ("gelu_new" if kind == "gpt2" else ""))


def _whole(table: Mapping[str, Any], where: str, *names: str, otherwise: int | None = None) -> int:
    for name in names:
        value = table.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    if otherwise is None:
        raise UserError(f"this configuration has no {names[0]}", where, "give the config.json of a causal model")
    return otherwise
