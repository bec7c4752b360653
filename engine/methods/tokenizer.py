"""The tokenizer of a model, ready for training: end token, pad token, chat template."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.contract import schema
from engine.contract.errors import UserError
from engine.methods.locate import Located, locate, refused


def load_tokenizer(model: schema.Model, located: Located | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token and, where the preset names one, its own chat template.

    `located` where the model has been found already.
    """
    located = located or locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise refused(located, "tokenizer", error) from error
    if model.chat_template:
        try:
            tokenizer.chat_template = Path(model.chat_template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(
                f"the chat template cannot be read: {error}", model.chat_template, "check model.chat_template"
            ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token", model.id, "set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer
