"""Load a model's tokenizer for training: EOS token, pad token, chat template."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from engine.config import schema
from engine.config.errors import UserError
from engine.data.chat_template import render_in_child, template_text, with_thinking
from engine.methods.locate import ModelLocation, load_error, locate


def load_tokenizer(model: schema.Model, located: ModelLocation | None = None) -> PreTrainedTokenizerBase:
    """Load the tokenizer with a pad token and the chat template of `model.chat_template`, else its own, with the
    default for `enable_thinking` that the model section has.

    `located`: the result of `locate`, if already known. Raises UserError if the tokenizer cannot be loaded or has no
    EOS token, and if `model.chat_template` is unknown or invalid Jinja.
    """
    located = located or locate(model)
    try:
        tokenizer = AutoTokenizer.from_pretrained(located.source, revision=located.revision, trust_remote_code=False)
    except Exception as error:
        raise load_error(located, "tokenizer", error) from error
    if tokenizer.eos_token_id is None:
        what, do = "tokenizer without an end-of-sequence token", "set eos_token in its tokenizer_config.json"
        raise UserError(what, model.id, do, code="model.no_eos_token")
    if model.chat_template:
        tokenizer.chat_template, tokenizer.chat_template_name = template_text(model.chat_template, tokenizer)
        render_in_child(tokenizer, lambda template: None)  # raises UserError for invalid Jinja
    template, thinking = tokenizer.chat_template, model.enable_thinking
    if isinstance(template, dict):  # several templates by name
        tokenizer.chat_template = {name: with_thinking(text, thinking) for name, text in template.items()}
    elif template:
        tokenizer.chat_template = with_thinking(template, thinking)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer
