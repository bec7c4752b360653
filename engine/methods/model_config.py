"""A model's configuration, read without its weights."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from engine.contract import schema
from engine.methods.locate import locate, refused


def config_of(model: schema.Model) -> Any:
    """The model's configuration alone. Raises UserError where there is none that transformers can read."""
    located = locate(model)
    try:
        return AutoConfig.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise refused(located, "configuration", error) from error


def maximum_positions(config: Any) -> int | None:
    """Positions that a model of this configuration supports, None where the configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
