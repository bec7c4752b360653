"""VeRA (Kopiczko et al. 2024, arXiv:2310.11454) through PEFT: two vectors per layer scale one pair of random matrices.

`adapter.rank` is the rank of the matrices, which all layers share and which are not trained.
"""

from __future__ import annotations

import peft
import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.methods.adapters import find_targets
from engine.methods.lora import load, weight_dtype

__all__ = ["load", "make_trainable", "weight_dtype"]


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """The frozen base with a pair of trained vectors on each target layer. Raises UserError for targets in experts."""
    targets = find_targets(model, config.adapter)
    if targets.parameters:
        problem, hint = "PEFT has no VeRA for experts", "name other layers in adapter.target_modules"
        raise UserError(problem, targets.parameters[0], hint, code="model.expert_adapter")
    vectors = peft.VeraConfig(
        r=config.adapter.rank,
        target_modules=targets.modules,
        vera_dropout=config.adapter.dropout,
        projection_prng_key=config.train.seed,
        task_type="CAUSAL_LM",
    )
    return peft.get_peft_model(model, vectors)
