"""How many characters an answer would have to lose, gain or change to become its target (Levenshtein 1966)."""

from __future__ import annotations


def edits(output: str, target: str) -> dict[str, float]:
    previous = list(range(len(target) + 1))
    for row, given in enumerate(output, 1):
        current = [row]
        for column, wanted in enumerate(target, 1):
            changed = previous[column - 1] + (given != wanted)
            current.append(min(previous[column] + 1, current[-1] + 1, changed))
        previous = current
    return {"edits": float(previous[-1])}
