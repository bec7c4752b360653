"""Activation checkpointing of a model through transformers."""

from __future__ import annotations

from typing import Any

from engine.config.activation_checkpointing import ActivationCheckpointing


def checkpointing_arguments(checkpointing: ActivationCheckpointing) -> dict[str, Any]:
    """`TrainingArguments.activation_checkpointing_kwargs`.

    Not reentrant: the reentrant implementation needs an input that requires a gradient and drops saved-tensor hooks.
    """
    return {"use_reentrant": False, "every_n_layers": checkpointing.every, "offload": checkpointing.offload}


def enable_checkpointing(model: Any, checkpointing: ActivationCheckpointing) -> None:
    """Let layers recompute their activations, also in a model that already does so for fewer layers."""
    if checkpointing.every:
        more = checkpointing_arguments(checkpointing)
        kwargs = {"use_reentrant": more.pop("use_reentrant")}
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=kwargs, **more)
