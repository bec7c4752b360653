"""Write the ticket dataset: support messages and the JSON that describes each.

`python -m authoring.make_tickets` reproduces the three files exactly. The test and validation splits use
phrases that do not occur in train, so memorized phrases are not enough.
"""

import json
import random
import re
from pathlib import Path

from authoring import ticket_phrases as bank
from engine.assets import tickets_folder

FIELDS = ("category", "product", "order", "urgency", "mood", "wants")
SIZES = {"train": 1600, "validation": 200, "test": 300}
SEED = 20240
FRESH_SHARE = 0.3
"""Share of phrases in validation and test that train never uses."""


def usable(phrases: list[str], rng: random.Random, train: bool) -> str:
    """Pick a phrase; every fourth phrase is reserved for validation and test."""
    common = [p for i, p in enumerate(phrases) if i % 4 != 3]
    fresh = [p for i, p in enumerate(phrases) if i % 4 == 3]
    if not train and fresh and rng.random() < FRESH_SHARE:
        return rng.choice(fresh)
    return rng.choice(common)


def weighted(odds: dict[str, int], rng: random.Random) -> str:
    return rng.choices(list(odds), weights=list(odds.values()))[0]


def draw_answer(rng: random.Random) -> dict[str, str | None]:
    """Draw the content of a ticket, before its wording."""
    category = weighted(bank.CATEGORIES, rng)
    happy = category == "praise"
    moods = {"happy": 70, "neutral": 30} if happy else {"neutral": 58, "angry": 22, "worried": 12, "happy": 8}
    return {
        "category": category,
        "product": rng.choice(list(bank.PRODUCTS)) if rng.random() < 0.8 else None,
        "order": order_number(rng) if rng.random() < 0.66 else None,
        "urgency": weighted({"normal": 64, "high": 24, "low": 12}, rng),
        "mood": weighted(moods, rng),
        "wants": weighted(bank.WANT_ODDS[category], rng) or None,
    }


def order_number(rng: random.Random) -> str:
    return "".join(rng.choices("ABCDEFGHKLMNPRSTVWXZ", k=2)) + f"{rng.randrange(100000):05d}"


def spelled(order: str, rng: random.Random) -> str:
    """The order number as people write it; the answer always has the plain form."""
    style = rng.random()
    if style < 0.12:
        return f"{order[:2]}-{order[2:]}"
    if style < 0.24:
        return f"#{order}"
    return order.lower() if style < 0.34 else order


def problem(answer: dict[str, str | None], rng: random.Random, train: bool) -> str:
    product = answer["product"]
    if product is None:
        named = rng.choice(bank.UNNAMED)
    else:
        named = rng.choice(["my", "the"]) + " " + rng.choice(bank.PRODUCTS[product])
    phrase = usable(bank.PROBLEMS[answer["category"] or ""], rng, train)
    # Some account phrases do not contain the product: add it, or the answer could only be guessed.
    if product is not None and "{p}" not in phrase:
        phrase += ", it is about {p}"
    return phrase.format(p=named)


def distractors(answer: dict[str, str | None], rng: random.Random, train: bool) -> list[str]:
    turns = []
    if rng.random() < 0.25:
        number, other = str(rng.randrange(1000, 99999)), order_number(rng)
        turns.append(usable(bank.NUMBERS, rng, train).format(n=number, x=other))
    if answer["product"] is not None and rng.random() < 0.15:
        other = rng.choice([p for p in bank.PRODUCTS if p != answer["product"]])
        turns.append(usable(bank.OTHERS, rng, train).format(q=other))
    if rng.random() < 0.25:
        turns.append(usable(bank.CHATTER, rng, train))
    return turns


def message(answer: dict[str, str | None], rng: random.Random, train: bool) -> str:
    """The sentences in random order, with the typos and case of real messages."""
    parts = [problem(answer, rng, train)]
    if answer["order"] is not None:
        parts.append(usable(bank.ORDERS, rng, train).format(o=spelled(answer["order"], rng)))
    for key, phrases in (("urgency", bank.URGENCY), ("mood", bank.MOOD), ("wants", bank.WANTS)):
        if answer[key] in phrases:
            parts.append(usable(phrases[answer[key] or ""], rng, train))
    parts += distractors(answer, rng, train)
    rng.shuffle(parts)
    if rng.random() < 0.45:
        parts.insert(0, rng.choice(bank.GREETINGS))
    if rng.random() < 0.35:
        parts.append(rng.choice(bank.CLOSINGS).format(name=rng.choice(bank.NAMES)))
    return rough(joined(parts, rng), rng)


def joined(parts: list[str], rng: random.Random) -> str:
    ends = rng.choice([[". "], [". ", "! ", ". "], [", "], ["\n"], [" - "], [". ", ", "]])
    sentence_case = ends[0] != ", " and rng.random() < 0.8
    text = ""
    for part in parts:
        text += (part[0].upper() + part[1:] if sentence_case else part) + rng.choice(ends)
    return text.strip(" ,-\n")


def rough(text: str, rng: random.Random) -> str:
    """Add typos in words without digits, and sometimes upper or lower case."""
    words = text.split(" ")
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(words))
            words[at] = typo(words[at], rng)
    text = " ".join(words)
    case = rng.random()
    return text.upper() if case < 0.05 else text.lower() if case < 0.2 else text


def typo(word: str, rng: random.Random) -> str:
    if len(word) < 4 or not word.isalpha():
        return word
    at = rng.randrange(1, len(word) - 1)
    swapped = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return rng.choice([swapped, word[:at] + word[at + 1 :], word[:at] + word[at] + word[at:]])


def normal_form(text: str) -> str:
    """A form that is equal for messages that differ only in case, punctuation or numbers."""
    masked = re.sub(r"\b[a-z]{2}-?\d{5}\b|\d+", "0", text.lower())
    return " ".join(re.findall(r"[a-z0]+", masked))


def rows(count: int, train: bool, seen: set[str], rng: random.Random) -> list[str]:
    lines: list[str] = []
    while len(lines) < count:
        answer = draw_answer(rng)
        text = message(answer, rng, train)
        if normal_form(text) in seen:
            continue
        seen.add(normal_form(text))
        said = json.dumps(answer, separators=(",", ":"))
        turns = [{"role": "user", "content": text}, {"role": "assistant", "content": said}]
        lines.append(json.dumps({"messages": turns}))
    return lines


def write_tickets(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[str] = set()
    for split, count in SIZES.items():
        rng = random.Random(f"{SEED}-{split}")
        lines = rows(count, split == "train", seen, rng)
        (folder / f"{split}.jsonl").write_bytes("".join(line + "\n" for line in lines).encode())


if __name__ == "__main__":
    write_tickets(tickets_folder())
