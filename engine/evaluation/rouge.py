"""ROUGE-L by Google's rouge-score, the reference implementation, with words of any script."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any

UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "THAI", "LAO", "MYANMAR", "KHMER", "TIBETAN"}
"""Scripts without spaces between words, by the first word of their characters' Unicode names."""


def words(text: str) -> list[str]:
    """Split text into lower-case runs of letters, marks and digits; single letters in scripts without spaces.

    On English text equal to rouge-score's tokenizer without stemming, which keeps only a–z and 0–9: with it every text
    in Russian, Greek or Chinese would score 0.
    """
    found: list[str] = []
    joins = False  # whether the next letter continues the last word
    for letter in unicodedata.normalize("NFC", text.lower()):
        kind = unicodedata.category(letter)[0]
        if kind not in "LMN":
            joins = False
            continue
        unspaced = _script(letter) in UNSPACED
        if found and (kind == "M" or (joins and not unspaced)):
            found[-1] += letter
        else:
            found.append(letter)
        joins = not unspaced
    return found


def rouge_l(output: str, target: str) -> float:
    """F1 of the longest common subsequence of words (Lin 2004, aclanthology.org/W04-1013) without stemming; 0 to 1."""
    return float(_scorer().score(target, output)["rougeL"].fmeasure)


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").split()[0] if letter > "\x7f" else "LATIN"


class _Words:
    """Tokenizer with rouge-score's interface."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # takes 0.2 s to import, and only this metric needs it

    return RougeScorer(["rougeL"], tokenizer=_Words())
