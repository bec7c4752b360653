"""Memory of one rank when several devices divide a model's weights (`engine.training.sharding`).

Each has 1/N of the weights and, in full fine-tuning, of gradients and optimizer state. It also has the whole weights of
two decoder layers, the one that computes and the next one, which FSDP2 gathers meanwhile, and of what is outside the
layers: embeddings, norm and LM head. Of the latter also the whole gradient, and a float32 copy that FSDP2 adds up over
the ranks (`torch.distributed.fsdp`, foreach_reduce). Not compared with a GPU yet; on a CPU peaks were 19% above the
prediction (`tests/bench/RESULTS.md`).
"""

from __future__ import annotations

from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.weights_and_state import FLOAT32, trained_parameters

GATHERED_LAYERS = 2


def shard_count(config: Config) -> int:
    """Number of ranks that divide the weights; 1 if each has all of them."""
    return config.train.devices if config.train.parallelism == "fsdp" else 1


def weights_of_rank(whole: int, decoder: int, shape: Architecture, config: Config) -> int:
    """Bytes of weights on a rank. `whole`: of the model; `decoder`: of its decoder layers."""
    ranks = shard_count(config)
    if ranks == 1:
        return whole
    return whole // ranks + (whole - decoder) + GATHERED_LAYERS * decoder // shape.layers


def state_of_rank(whole: int, config: Config) -> int:
    """Bytes of optimizer state on a rank; that of adapters is whole on each."""
    return whole // shard_count(config) if method_spec(config.method).trains_weights else whole


def gradients_of_rank(whole: int, shape: Architecture, config: Config) -> int:
    """Bytes of gradients on a rank at the end of a backward pass; those of adapters are whole on each."""
    ranks = shard_count(config)
    if ranks == 1 or not method_spec(config.method).trains_weights:
        return whole
    outside = shape.embeddings + shape.hidden
    return whole // ranks + outside * (whole // trained_parameters(shape) + FLOAT32)
