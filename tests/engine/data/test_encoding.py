"""The texts of tokens, joined, equal `tokenizer.decode` of all tokens, for any tokens."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
from data_fixtures import CORPUS, tokenizer

from engine.data.chat_template import special_tokens
from engine.data.check import sample
from engine.data.rows import Row
from engine.data.tokens import texts_between, token_texts

TEXTS = (
    "", " ", "Don’t", "naïve café", "👩‍👩‍👧‍👦 family", "🏳️‍🌈🇳🇴", "日本語のテキスト", "e\u0301 combined n\u0303",
    "a\u200db\ufe0f", "Ελληνικά и кириллица", "שלום عليكم", "\n\ttab", "<|im_start|>user\nhi<|im_end|>\n",
    "\ufffd literal",
    "x" * 300, "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈", "  leading and trailing  ", "🤷🏽‍♀️" * 40,
)  # fmt: skip


@functools.cache
def byte_fallback() -> Any:
    """A tokenizer like those of sentencepiece models: spaces are ▁, and unknown characters are bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    raw.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=tokens, show_progress=False)
    raw.train_from_iterator(CORPUS, trainer)
    raw = Tokenizer.from_str(raw.to_str().replace('"special": true', '"special": false'))
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", bos_token="<s>", unk_token="<unk>")


@functools.cache
def word_pieces() -> Any:
    """A decoder that joins pieces with the prefix ##."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.decoder = decoders.WordPiece()
    raw.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="[SEP]", unk_token="[UNK]")


KINDS = {"byte-level": lambda: tokenizer(), "byte fallback": byte_fallback, "word pieces": word_pieces}


def decoded(ids: list[int], tok: Any) -> str:
    return str(tok.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


@pytest.mark.parametrize("kind", KINDS)
def test_joined_texts_are_the_decoded_text(kind: str) -> None:
    tok = KINDS[kind]()
    for text in (*TEXTS, "".join(TEXTS)):
        ids = tok(text, add_special_tokens=False)["input_ids"]
        assert "".join(token_texts(ids, tok)) == decoded(ids, tok)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(20))
def test_joined_texts_are_the_decoded_text_for_any_ids(kind: str, seed: int) -> None:
    tok, source = KINDS[kind](), random.Random(seed)
    pools = [range(len(tok)), tok("".join(TEXTS), add_special_tokens=False)["input_ids"]]
    ids = [source.choice(source.choice(pools)) for _ in range(source.choice([1, 3, 40, 300]))]
    texts = token_texts(ids, tok)
    assert "".join(texts) == decoded(ids, tok)
    assert len(texts) == len(ids)


@pytest.mark.parametrize("kind", ["byte-level", "byte fallback"])
@pytest.mark.parametrize("text", ["Don’t", "👩‍👩‍👧‍👦", "日本語", "e\u0301"])
def test_a_split_character_is_the_text_of_the_token_that_completes_it(kind: str, text: str) -> None:
    tok = KINDS[kind]()
    ids = tok(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(ids, tok)
    assert "\ufffd" not in "".join(texts)
    assert "".join(texts).strip() == text
    shown = complete = 0
    for number, token in enumerate(texts):
        shown += len(token)
        complete = max(complete, len(decoded(ids[: number + 1], tok).rstrip("\ufffd")))
        assert shown == complete, "a character is shown as soon as it is complete"


def test_texts_of_a_part_equal_those_of_the_complete_row() -> None:
    tok = tokenizer()
    ids = tok("".join(TEXTS), add_special_tokens=False)["input_ids"]
    whole = token_texts(ids, tok)
    for start, stop in ((0, 9), (10, 50), (len(ids) - 30, len(ids))):
        assert texts_between(ids, start, stop, tok) == whole[start:stop]


def test_bytes_that_are_not_text_take_linear_time() -> None:
    tok = tokenizer()
    broken = tok("é", add_special_tokens=False)["input_ids"][0]
    ids = [broken] * 20_000
    assert "".join(token_texts(ids, tok)) == decoded(ids, tok)


def test_a_sample_shows_text_and_marks_parts_of_characters() -> None:
    tok = tokenizer()
    ids = tok("Don’t 👍", add_special_tokens=False)["input_ids"]
    shown = sample(Row(ids, ids, [], "", "here", False), tok, special_tokens(tok)[0])["tokens"]
    assert "".join(token["text"] for token in shown) == "Don’t 👍"
    assert [token["id"] for token in shown] == ids
    assert [token["partial"] for token in shown] == [not token["text"] for token in shown]
    assert sum(token["partial"] for token in shown) == 2 + 3
