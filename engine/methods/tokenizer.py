"""The tokenizer of a model, ready for training: end token, pad token, chat template."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.config import schema
from engine.config.errors import UserError
from engine.data.chat_template import ChatTemplate
from engine.data.shipped_templates import template_text
from engine.methods.locate import Located, locate, refused


def load_tokenizer(model: schema.Model, located: Located | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer with a pad token and the chat template that model.chat_template names, else its own.

    `located` where the model has been found already. Raises UserError where model.chat_template is unknown or not valid
    Jinja.
    """
    located = located or locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise refused(located, "tokenizer", error) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            "the tokenizer has no end-of-sequence token", model.id, "set eos_token in its tokenizer_config.json"
        )
    if model.chat_template:
        tokenizer.chat_template, tokenizer.chat_template_name = template_text(model.chat_template, tokenizer)
        ChatTemplate(tokenizer)  # raises where it is not valid Jinja
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer
