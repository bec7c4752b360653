"""Memory of one rank when several devices divide a model's weights (`engine.training.sharding`).

Each has 1/N of the weights and, in full fine-tuning, of gradients and optimizer state. It also has the whole weights of
two decoder layers, the one that computes and the next one, which FSDP2 gathers meanwhile, and of what is outside the
layers: embeddings, norm and LM head. Not compared with a GPU yet.
"""

from __future__ import annotations

from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.architecture import Architecture

GATHERED_LAYERS = 2


def divided_among(config: Config) -> int:
    """Number of ranks that divide the weights; 1 if each has all of them."""
    return config.train.devices if config.train.parallelism == "fsdp" else 1


def weights_of_rank(whole: int, decoder: int, shape: Architecture, config: Config) -> int:
    """Bytes of weights on a rank. `whole`: of the model; `decoder`: of its decoder layers."""
    ranks = divided_among(config)
    if ranks == 1:
        return whole
    return whole // ranks + (whole - decoder) + GATHERED_LAYERS * decoder // shape.layers


def trained_of_rank(whole: int, config: Config) -> int:
    """Bytes of gradients or optimizer state on a rank; those of adapters are whole on each."""
    return whole // divided_among(config) if method_spec(config.method).trains_weights else whole
