"""Train the tiny model's byte-level BPE tokenizer and add its chat template."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD, START, END, STOP = "<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VOCABULARY = 3072


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train the tokenizer. Digits are single tokens, so that a model copies numbers digit by digit."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, START, END, STOP],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(texts, trainer)
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
