"""Read a model's configuration without its weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from engine.config import schema
from engine.config.model_files import impossible_model_error
from engine.config.model_limits import impossible_value
from engine.methods.locate import ModelLocation, load_error, locate


def config_of(model: schema.Model) -> Any:
    """The transformers configuration of a model. Raises UserError if transformers cannot read it."""
    return config_at(locate(model))


def config_at(located: ModelLocation) -> Any:
    """The configuration of a located model. Raises UserError also for impossible shapes."""
    try:
        config = AutoConfig.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(located, "configuration", error) from error
    if fault := impossible_value(config.to_dict()):
        raise impossible_model_error(fault, located.source)
    return config


def maximum_positions(config: Any) -> int | None:
    """Maximum sequence length of the model (`max_position_embeddings`), None if the configuration does not give it."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
