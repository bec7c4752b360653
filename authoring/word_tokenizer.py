"""The tokenizer of the embedded model: words as tokens, codes letter by letter, with a splitting that llama.cpp has.

Llama 3's pre-tokenizer splits text into words, numbers of at most three digits and punctuation. A frequent word is one
token (`ignore_merges`) and needs no merges of pairs of letters, which would occur in codes as well. So a code
such as AB12345 has the same tokens wherever it stands.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from authoring.make_tokenizer import END, PAD, START, STOP, VOCABULARY, with_template

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As in `engine.export.gguf_tools`, which this package may not import; a test compares the saved tokenizer."""
CODE = re.compile(r"\b(?:[A-Z]{1,4}[- ]?|[a-z]{1,4}-?)\d+")
"""A code in the texts for training: its letters are no word."""
FRAGMENTS = 680
"""Merges for words that are not tokens, such as misspelled ones."""
STARTS = 200
"""Pairs of letters at the start of words that are tokens with and without a space; no order number starts with them."""
CAPITALS = 3
"""Factor of the count of a word in capitals, which would be spelled otherwise."""

Merge = tuple[str, str]


def train_word_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Count words, learn merges for the rare ones, and fill the vocabulary with the most frequent words."""
    counts = count_words(texts)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    digits: list[Merge] = [(a, b) for a in "0123456789" for b in "0123456789"]
    words = [word for word in counts if len(word) > 1 and not spoils_codes(word)]
    words.sort(key=lambda word: -counts[word] * (CAPITALS if letters_of(word).isupper() else 1))
    frequent = set(words[: VOCABULARY - len(alphabet) - len(digits) - FRAGMENTS])
    merges = digits + learn_merges({word: n for word, n in counts.items() if word not in frequent}, FRAGMENTS)
    tokens = [PAD, START, END, STOP, *alphabet, *("".join(merge) for merge in merges), *words]
    tokens = list(dict.fromkeys(tokens))[:VOCABULARY]
    model = models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges, ignore_merges=True)
    core = Tokenizer(model)
    core.pre_tokenizer = splitting()
    core.decoder = decoders.ByteLevel()
    return with_template(core)


def splitting() -> pre_tokenizers.PreTokenizer:
    """Llama 3's pre-tokenizer."""
    split = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def count_words(texts: Iterable[str]) -> Counter[str]:
    """How often each word occurs outside codes, in the letters that byte-level BPE has for bytes."""
    split, counts = splitting(), Counter[str]()
    for text in texts:
        counts.update(word for word, _ in split.pre_tokenize_str(CODE.sub("", text)) if not word.isdigit())
    return counts


def letters_of(token: str) -> str:
    """The token without the space or sign before its first letter."""
    return token if token[:1].isascii() and token[:1].isalpha() else token[1:]


def spoils_codes(word: str) -> bool:
    """Whether the letters of an order number can be the word: two capital letters such as `ME`."""
    letters = letters_of(word)
    return re.fullmatch("[A-Z]{2}", letters) is not None and not rare_in_codes(letters)


def rare_in_codes(letters: str) -> bool:
    """Whether an order number of the tickets never has the letters: mixed case, or one of I, J, O, Q, U and Y."""
    return re.search("^[A-Z][a-z]|[ijoquyIJOQUY]", letters) is not None


def may_merge(merge: Merge) -> bool:
    """Whether the merge is of letters, at most after one space or sign, and the first two are rare in codes."""
    token = "".join(merge)
    letters = letters_of(token)
    if not re.fullmatch("[A-Z]?[a-z]+|[A-Z]{2,}", letters) or len(letters) < 2:
        return False
    return len(letters) > 2 or letters != token or rare_in_codes(letters)


def learn_starts(counts: dict[str, int]) -> list[Merge]:
    """Merges of the first two letters of words, and of these with a space: a space left alone announces a code."""
    pair_counts = Counter[Merge]()
    for word, number in counts.items():
        if re.match("Ġ[A-Z]?[a-z]{1,2}", word) and len(word) > 2:
            pair_counts[word[1], word[2]] += number
    pairs = [pair for pair, _ in pair_counts.most_common() if re.fullmatch("[A-Z]?[a-z]+", "".join(pair))]
    kept = [pair for pair in pairs if rare_in_codes("".join(pair))][:STARTS]
    return kept + [("Ġ", "".join(pair)) for pair in kept]


def learn_merges(counts: dict[str, int], number: int) -> list[Merge]:
    """Merges for the starts of words, then byte-pair encoding with the merges that `may_merge` allows."""
    parts = {word: list(word) for word in counts}
    merges = learn_starts(counts)
    for start in merges:
        parts = {word: list(merged(split, start)) for word, split in parts.items()}
    while len(merges) < number:
        pair_counts = Counter[Merge]()
        for word, split in parts.items():
            for pair in pairwise(split):
                pair_counts[pair] += counts[word]
        merges.append(next(pair for pair, _ in pair_counts.most_common() if may_merge(pair)))
        parts = {word: list(merged(split, merges[-1])) for word, split in parts.items()}
    return merges


def merged(split: list[str], pair: Merge) -> Iterator[str]:
    i = 0
    while i < len(split):
        together = tuple(split[i : i + 2]) == pair
        yield "".join(pair) if together else split[i]
        i += 2 if together else 1


def change_tokenizer(model: LlamaForCausalLM, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> None:
    """Give each token of `new` the embedding that it had, or the mean of those of its parts.

    Both vocabularies have the same size, and the head shares the embedding.
    """
    embedding = model.get_input_embeddings().weight.data  # [vocabulary, width]
    known, moved = old.get_vocab(), embedding.clone()
    for token, i in new.get_vocab().items():
        text = new.convert_tokens_to_string([token])
        parts = [known[token]] if token in known else old(text, add_special_tokens=False)["input_ids"]
        moved[i] = embedding[parts].mean(0)
    embedding.copy_(moved)
