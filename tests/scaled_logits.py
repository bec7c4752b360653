"""Small models that scale or cap their logits, each in its own way."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
import transformers
from model_shapes import LAYERS, MOE, SMALL, SSM, VOCABULARY

from engine.training.loss import Scaling, chunkable_head

ROUTED = {"num_local_experts": 4, "num_experts_per_tok": 2}
SCALED = {
    "granite": (transformers.GraniteConfig(**SMALL, logits_scaling=6.0), Scaling(divisor=6.0)),
    "granitemoe": (transformers.GraniteMoeConfig(**SMALL, **ROUTED, logits_scaling=8.0), Scaling(divisor=8.0)),
    "hyperclovax": (transformers.HyperCLOVAXConfig(**SMALL, logits_scaling=0.3), Scaling(multiplier=0.3)),
    "cohere": (transformers.CohereConfig(**SMALL, logit_scale=0.0625), Scaling(multiplier=0.0625)),
    "cohere2": (transformers.Cohere2Config(**SMALL, logit_scale=0.3), Scaling(multiplier=0.3)),
    "falcon_h1": (
        transformers.FalconH1Config(**LAYERS, **SSM, mamba_d_ssm=128, lm_head_multiplier=0.7),
        Scaling(multiplier=0.7),
    ),
    "recurrent_gemma": (
        transformers.RecurrentGemmaConfig(**LAYERS, lru_width=64, attention_window_size=32, logits_soft_cap=20.0),
        Scaling(cap=20.0),
    ),
    "beam": (
        transformers.BeamConfig(
            **LAYERS, **MOE, head_dim=16, n_group=1, topk_group=1, mlp_layer_types=["dense", "sparse"],
            final_logit_softcapping=20.0,
        ),
        Scaling(cap=20.0, float32_cap=True),
    ),
    "xlstm": (
        transformers.xLSTMConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_heads=4, chunk_size=16, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, output_logit_soft_cap=20.0,
        ),
        Scaling(cap=20.0, float32_cap=True),
    ),
}  # fmt: skip
"""Name -> configuration of a model that scales or caps its logits, and the `Scaling` to be found in bf16."""


def large_logits(config: transformers.PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    """A model with fixed random weights whose logits a soft cap changes."""
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config.initializer_range = 0.3
    return transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


def assert_scaling_is_found(name: str, dtype: torch.dtype, device: str) -> None:
    config, scaling = SCALED[name]
    head = chunkable_head(large_logits(config, dtype).to(device))
    in_float32 = dtype == torch.float32  # a cap in float32 is the same as one in the data type of the product
    assert head is not None and head.scaling == (replace(scaling, float32_cap=False) if in_float32 else scaling)
