"""The tokenizer of the first stages of pretraining, which splits codes by a regular expression, and the chat template.

The tokenizer of the finished model is in `word_tokenizer`.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END, STOP = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCABULARY = 3072
CODE_LETTER = r"[A-Za-z](?=[A-Za-z]{0,3}-?\d)"
"""A letter of a code such as AB123 or ab-123: at most three letters and a hyphen before a digit."""
DIGIT_PAIR = r"\d{1,2}"
"""Digits by two from the left: equal numbers have equal tokens, and few tokens occur twice in one number."""


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer. Codes have one token per letter and per pair of digits, to be copied one by one."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CODE_LETTER), "isolated"),
            pre_tokenizers.Split(Regex(DIGIT_PAIR), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END, STOP],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(texts, trainer)
    return with_template(core)


def with_template(core: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer with its special tokens and the chat template."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        model_max_length=1024,
        additional_special_tokens=[START, STOP],
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (Path(__file__).parent / "chat_template.jinja").read_text()
    return tokenizer


def as_text(document: object, tokenizer: PreTrainedTokenizerFast) -> str:
    """A chat rendered by the template, or a plain document with an end-of-text token."""
    if isinstance(document, str):
        return document + STOP
    return str(tokenizer.apply_chat_template(document, tokenize=False))
