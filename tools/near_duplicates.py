"""Recall and wrong pairs of near-duplicates in 10 templated sets with planted copies.

    python tools/near_duplicates.py [--seed 0]
    python tools/near_duplicates.py --cost 200000    # CPU time and memory for so many prompts of 17 words

Each set has 2,000 distinct training prompts of a template and 400 test prompts: half are new, half are copies of a
training prompt with another case, punctuation, spacing or Unicode form, or with one typing error in a word without
digits. A new prompt that is counted is a wrong pair.
"""

from __future__ import annotations

import argparse
import random
import resource
import sys
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

sys.path[:0] = [str(Path(__file__).parents[1])]

from engine.data.duplicates import keys_of  # noqa: E402 - the path above makes it importable
from engine.data.near_duplicates import NearDuplicates  # noqa: E402
from engine.data.rows import Example  # noqa: E402

TRAIN, TEST = 2_000, 400
NAMES = "Anna Maria Marie Peter Martin Marten Julia Julian Olga Ahmed Yuki Chen Priya Carlos Carla Ingrid Tom Tim"
PLACES = "Paris Berlin Bern Madrid Lisbon Vienna Oslo Rome Prague Warsaw Austin Boston Houston Dover Denver Lima"
THINGS = "apples pears books boxes cards cars chairs lamps plates plants phones tickets pencils bottles shirts"
VERBS = "close open order check cancel change confirm delay refund return replace track update verify"
WORDS = (
    "battery screen works arrived late broken cheap quality service friendly waiter noisy room clean "
    "breakfast delivery packaging charger sound picture colour stitching comfortable size returned money "
    "support answered quickly never again recommend value weeks stopped excellent terrible average "
    "expected better worse family "
)

Maker = Callable[[random.Random], str]


def pick(rng: random.Random, words: str) -> str:
    return rng.choice(words.split())


def free_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS.split(), k=rng.randint(12, 40)))


SETS: dict[str, Maker] = {
    "arithmetic": lambda r: f"What is {r.randint(2, 999)} plus {r.randint(2, 999)}?",
    "word problems": lambda r: (
        f"{pick(r, NAMES)} has {r.randint(2, 99)} {pick(r, THINGS)} and gives {r.randint(2, 99)} of them to "
        f"{pick(r, NAMES)}. How many {pick(r, THINGS)} are left?"
    ),
    "travel": lambda r: (
        f"Book a flight from {pick(r, PLACES)} to {pick(r, PLACES)} on {r.randint(1, 28)} May for {pick(r, NAMES)}."
    ),
    "orders": lambda r: (
        f"Hello, please {pick(r, VERBS)} my order {r.randint(10_000, 99_999)} of {pick(r, THINGS)}, thank you."
    ),
    "SQL": lambda r: (
        f"Table {pick(r, THINGS)} has the columns id, name, city and price. Write SQL that returns the "
        f"{pick(r, THINGS)} of {pick(r, NAMES)} in {pick(r, PLACES)} with a price above {r.randint(1, 500)}"
    ),
    "reviews": lambda r: (
        "Classify the sentiment of the following review as positive, negative or neutral. Answer with one word.\n\n"
        f"Review: {free_text(r)}"
    ),
    "extraction": lambda r: (
        "Extract name, city and date from the message as JSON with the keys name, city and date.\nMessage: "
        f"{pick(r, NAMES)} moves to {pick(r, PLACES)} on {r.randint(1, 12)}/{r.randint(1, 28)}, {free_text(r)}"
    ),
    "several templates": lambda r: r.choice(
        [
            f"Convert {r.randint(2, 9_999)} {pick(r, 'km miles metres feet')} to inches.",
            f"How far is it from {pick(r, PLACES)} to {pick(r, PLACES)} by {pick(r, 'car train ship')} for {r.randint(2, 99)} people?",  # noqa: E501
            f"Remind {pick(r, NAMES)} at {r.randint(1, 23)}:{r.randint(10, 59)} to {pick(r, VERBS)} the {pick(r, THINGS)}.",  # noqa: E501
        ],
    ),
    "codes": lambda r: f"Which product has the code {''.join(r.choices('ABCDEFGHJKLMNP', k=6))} in our catalog?",
    "German": lambda r: (
        f"Wie viele {pick(r, 'Äpfel Bücher Stühle Schlüssel Türen')} für {r.randint(2, 999)} Euro kann "
        f"{pick(r, NAMES)} in {pick(r, 'München Köln Düsseldorf Nürnberg Zürich')} kaufen?"
    ),
}


def with_error(rng: random.Random, text: str) -> str:
    """One letter of a word of at least four is exchanged with the next one, left out or doubled."""
    words = text.split(" ")
    place = rng.choice([n for n, word in enumerate(words) if len(word) >= 4 and word.isalpha()])
    word = words[place]
    at = rng.choice([n for n in range(1, len(word) - 1) if word[n] != word[n + 1]])
    changed = [
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + 2 * word[at] + word[at + 1 :],
    ]
    words[place] = rng.choice(changed)
    return " ".join(words)


CHANGES: dict[str, Callable[[random.Random, str], str]] = {
    "case": lambda r, text: r.choice([text.upper(), text.lower(), text.swapcase()]),
    "punctuation": lambda r, text: text[:-1] + r.choice(["", "!", " ?", "??", "…"]) if text[-1] in ".?" else f"{text}.",
    "spaces": lambda r, text: f" {text.replace(' ', '  ')} ".replace(",", " ,").replace("?", " ?"),
    "Unicode": lambda r, text: unicodedata.normalize("NFD", text).replace(" ", "\u00a0", 3) + "\u3000",
    "typing error": with_error,
}


def planted(maker: Maker, rng: random.Random) -> tuple[list[str], list[tuple[str, str]]]:
    """(training prompts, (test prompt, its change or '')). All prompts are distinct, also after changes."""
    distinct: dict[str, None] = {}
    while len(distinct) < TRAIN + TEST // 2:
        distinct[maker(rng)] = None
    prompts = list(distinct)
    train, new = prompts[:TRAIN], prompts[TRAIN:]
    kinds = list(CHANGES)
    copies = []
    for number, original in enumerate(rng.sample(train, TEST // 2)):
        kind = kinds[number % len(kinds)]
        copies.append((CHANGES[kind](rng, original), kind))
    return train, [*((text, "") for text in new), *copies]


def prompt_key(text: str) -> bytes:
    return keys_of(Example(None, text, "a", "")).prompt


def measure(name: str, seed: int) -> tuple[Counter[str], Counter[str], list[str]]:
    """Test prompts counted, and all, by their change; and the new prompts that were counted."""
    train, test = planted(SETS[name], random.Random(f"{name} {seed}"))
    found = NearDuplicates()
    for text in train:
        found.add("train", Example(None, text, "a", ""))
    for text, _ in test:
        found.add("test", Example(None, text, "a", ""))
    near = found.near("test").tolist()
    # A copy whose change the prompt's key ignores counts as overlap, not as a near-duplicate.
    keys = {prompt_key(text) for text in train}
    equal = [prompt_key(text) in keys for text, _ in test]
    counted = Counter(kind for (_, kind), is_near, same in zip(test, near, equal, strict=True) if is_near or same)
    return (
        counted,
        Counter(kind for _, kind in test),
        [text for (text, kind), n in zip(test, near, strict=True) if n and not kind],
    )


def lines(seed: int) -> Iterator[str]:
    yield "| set | recall | " + " | ".join(CHANGES) + " | new prompts counted, of all counted |"
    yield "|---|--:|" + "--:|" * len(CHANGES) + "--:|"
    for name in SETS:
        counted, planted_copies, wrong = measure(name, seed)
        right, copies = (sum(counts[kind] for kind in CHANGES) for counts in (counted, planted_copies))
        shares = " | ".join(f"{counted[kind] / planted_copies[kind]:.0%}" for kind in CHANGES)
        yield f"| {name} | {right / copies:.1%} | {shares} | {len(wrong)} of {right + len(wrong)} |"
        for text in wrong[:3]:
            print(f"{name}: {text[:200]}", file=sys.stderr)


def cost(rows: int) -> str:
    """CPU time and memory; a first row loads the libraries."""
    rng, found = random.Random(1), NearDuplicates()
    words = ["".join(rng.choices("abcdefghijklmnop", k=rng.randint(3, 8))) for _ in range(20_000)]
    found.add("train", Example(None, "the first prompt", "a", ""))
    found.near("train")
    process = psutil.Process()
    before, began = process.memory_info().rss, time.process_time()
    for number in range(rows):
        prompt = " ".join(rng.choices(words, k=17))
        found.add("test" if number % 10 == 0 else "train", Example(None, prompt, "a", ""))
    held = process.memory_info().rss - before
    found.near("test")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    seconds = time.process_time() - began
    return f"{rows:,} prompts: {seconds:.1f} CPU s, {held / 1e6:.0f} MB held, {peak / 1e6:.0f} MB at most"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", type=int, metavar="ROWS")
    given = parser.parse_args()
    print(cost(given.cost) if given.cost else "\n".join(lines(given.seed)))
