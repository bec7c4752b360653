"""Support conversations for pretraining, with other phrases, labels and formats than those of the tickets."""

import random
import re
from dataclasses import dataclass

from authoring import corpus_support_phrases as bank
from authoring import corpus_words as words
from authoring.corpus_text import Turn, cased, code, compact

KEYS = {
    "topic": ["topic", "theme", "subject"],
    "item": ["item", "thing", "article"],
    "code": ["code", "ref", "number"],
    "tone": ["tone", "feeling"],
    "speed": ["speed", "pace"],
    "ask": ["ask", "wish", "request"],
}
MORE_KEYS = {
    "topic": "category",
    "item": "product",
    "code": "order",
    "tone": "mood",
    "speed": "urgency",
    "ask": "wants",
}
"""Names of keys in the last stage: those of the tickets with other labels, and never all six in one answer."""
COUNTS = (1, 1, 2, 3, 4, 5, 6)
"""Numbers of keys of a question."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Message:
    """The text of a support message and what there is to know about it, by the keys of KEYS."""

    text: str
    known: dict[str, str | None]


def vary(phrase: str, rng: random.Random) -> str:
    """Replace each innermost choice `(a|b)` by one of its options until none is left."""
    while "(" in phrase:
        phrase = re.sub(r"\(([^()]*)\)", lambda group: rng.choice(group[1].split("|")), phrase)
    return phrase


def support_code(rng: random.Random) -> str:
    digits = rng.choice([3, 4, 5, 5, 5, 6])
    return "".join(rng.choices(LETTERS, k=rng.choice([1, 2, 2, 2, 3]))) + "".join(rng.choices("0123456789", k=digits))


def spelled(plain: str, rng: random.Random, lower: float = 0.15) -> str:
    """A code as people write it, in lower case with probability `lower`; answers always have the plain form."""
    style = rng.random()
    if style < 0.15:
        return re.sub(r"(?<=[A-Z])(?=\d)", rng.choice(["-", "-", " "]), plain)
    if style < 0.3:
        return "#" + plain
    return plain.lower() if style < 0.3 + lower else plain


def any_word(rng: random.Random) -> str:
    """An everyday word or a form of it, right or wrong, or letters; never `call`, which the tickets have before codes.

    Words that are no token are spelled in letters as codes are; only the digits of a code differ.
    """
    if rng.random() < 0.3:
        return "".join(rng.choices(LETTERS.lower(), k=rng.randint(2, 7)))
    word = rng.choice([word for word in words.EVERYDAY if word != "call"])
    return word + rng.choice(["", "", "s", "ed", "ing", "er"])


def phrases_of(known: dict[str, str | None], rng: random.Random, worded: bool) -> list[str]:
    parts = [rng.choice(bank.TOPICS[known["topic"] or ""])]
    if known["item"] and "{p}" not in parts[0]:
        parts.append(rng.choice(["i mean {p}", "that concerns {p}"]))
    if known["code"]:
        parts.append(rng.choice(bank.WORDED_CODES if worded else bank.CODES))
    for key, group in (("tone", bank.TONES), ("speed", bank.SPEEDS), ("ask", bank.ASKS)):
        if known[key] in group:
            parts.append(rng.choice(group[known[key] or ""]))
    for phrases, share in ((bank.OTHER_CODES, 0.2), (bank.OTHER_NUMBERS, 0.2), (bank.OTHER_ITEMS, 0.15)):
        if rng.random() < share:
            parts.append(rng.choice(phrases))
    rng.shuffle(parts)
    return [rng.choice(bank.SMALL_TALK), *parts] if rng.random() < 0.4 else parts


def draw_known(rng: random.Random, items: list[str]) -> dict[str, str | None]:
    return {
        "topic": rng.choice(list(bank.TOPICS)),
        "item": rng.choice(items) if rng.random() < 0.8 else None,
        "code": support_code(rng) if rng.random() < 0.7 else None,
        "tone": rng.choice([*bank.TONES, "plain"]),
        "speed": rng.choice([*bank.SPEEDS, "usual"]),
        "ask": rng.choice([*bank.ASKS, None]),
    }


def message(rng: random.Random, items: list[str] = bank.ITEMS, worded: bool = False) -> Message:
    """Draw a message; if `worded`, its code comes after any word, and more of it is in lower case or in capitals."""
    known = draw_known(rng, items)
    item = known["item"]
    quality = rng.choice(bank.QUALITIES) + " " if rng.random() < 0.25 else ""
    named = f"{rng.choice(['the', 'my', 'our', 'a'])} {quality}{item}" if item else rng.choice(bank.UNNAMED)
    values = {
        "p": named,
        "o": spelled(known["code"] or "", rng, lower=0.3 if worded else 0.15),
        "x": support_code(rng),
        "q": rng.choice([other for other in bank.ITEMS if other != item]),
        "n": str(rng.randrange(100, 99999)),
        "t": rng.choice(words.TIMES),
        "name": rng.choice(words.PEOPLE).title(),
    }
    if worded:
        values["w"] = any_word(rng)
    parts = [vary(part, rng).format(**values) for part in phrases_of(known, rng, worded)]
    # Punctuation at the end of a sentence, or one of several other separators.
    text = rng.choice([". ", ". ", "! ", ", ", "\n", " - ", "; "]).join(parts)
    return Message(with_typos(cased(text, rng, capitals=0.16 if worded else 0.08), rng), known)


def with_typos(text: str, rng: random.Random) -> str:
    """Misspell up to three words in one of three texts: a swapped, a missing or a doubled letter."""
    parts = text.split(" ")
    for _ in range(rng.randint(1, 3) if rng.random() < 0.35 else 0):
        at = rng.randrange(len(parts))
        word = parts[at]
        if len(word) > 3 and word.isalpha():
            i = rng.randrange(1, len(word) - 1)
            swapped = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
            parts[at] = rng.choice([swapped, word[:i] + word[i + 1 :], word[:i] + word[i] + word[i:]])
    return " ".join(parts)


def key_names(keys: list[str], rng: random.Random, more: bool) -> dict[str, str]:
    names = {key: MORE_KEYS[key] if more and rng.random() < 0.6 else rng.choice(KEYS[key]) for key in keys}
    if set(names.values()) == set(MORE_KEYS.values()):
        names[keys[0]] = KEYS[keys[0]][0]
    return names


def question(
    known: dict[str, str | None], rng: random.Random, counts: tuple[int, ...] = COUNTS, more: bool = False
) -> tuple[str, str]:
    """One question about a message, and the answer: a word, lines or JSON with other names for the keys."""
    keys = rng.sample(list(KEYS), rng.choice(counts))
    names = key_names(keys, rng, more)
    values = {names[key]: known[key] for key in keys}
    if len(keys) == 1 and rng.random() < 0.7:
        return rng.choice(["{}?", "what is the {}?", "{}"]).format(names[keys[0]]), known[keys[0]] or "none"
    listed = ", ".join(values)
    if rng.random() < 0.6:
        return f"{rng.choice(['json with', 'fill', 'keys:', 'give json for'])} {listed}", compact(values)
    return f"{rng.choice(['lines with', 'list', 'note'])} {listed}", "\n".join(
        f"{k}: {v or '-'}" for k, v in values.items()
    )


def support_talk(rng: random.Random) -> list[Turn]:
    """A message with questions about it; in one of six cases, a message and a reply like a person's."""
    told = message(rng)
    if rng.random() < 0.16:
        values = {"o": told.known["code"] or "your case", "i": told.known["item"] or "article"}
        reply = vary(rng.choice(bank.REPLIES), rng)
        reply = reply.format(t=rng.choice(words.TIMES), name=rng.choice(words.PEOPLE).title(), **values)
        return [{"role": "user", "content": told.text}, {"role": "assistant", "content": reply}]
    turns: list[Turn] = []
    for i in range(rng.choice([1, 2, 2, 3])):
        asked, answered = question(told.known, rng)
        if i == 0:
            asked = f"{asked}\n{told.text}" if rng.random() < 0.7 else f"{told.text}\n{asked}"
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def focused_talk(
    rng: random.Random, counts: tuple[int, ...] = (3, 4, 5, 6), more: bool = False, worded: bool = False
) -> list[Turn]:
    """As `support_talk`, with fewer items and more keys: more to learn per token about what messages mean."""
    told = message(rng, bank.ITEMS[:48], worded)
    asked, answered = question(told.known, rng, counts, more)
    asked = f"{asked}\n{told.text}" if rng.random() < 0.7 else f"{told.text}\n{asked}"
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    if rng.random() < 0.5:
        asked, answered = question(told.known, rng, (1, 1, 2), more)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns


def named_talk(rng: random.Random) -> list[Turn]:
    """As `focused_talk`, with more names for the keys and more single questions."""
    return focused_talk(rng, (1, 3, 4, 5, 6, 6), more=True)


def worded_talk(rng: random.Random) -> list[Turn]:
    """As `named_talk`, with codes after any word."""
    return focused_talk(rng, (1, 3, 4, 5, 6, 6), more=True, worded=True)


def code_of(rng: random.Random) -> tuple[str, str]:
    """Look up one of several codes: copying a random string that follows a known word."""
    names = rng.sample(rng.choice([words.PEOPLE, bank.ITEMS, words.PLACES, words.CITIES]), rng.randint(2, 5))
    held = {name: rng.choice([code, support_code])(rng) for name in names}
    name = rng.choice(names)
    shape = rng.choice(["{} {}", "{}: {}", "the code of {} is {}", "{} has {}", "{}={}"])
    told = rng.choice([", ", "\n", ". "]).join(shape.format(n, spelled(c, rng)) for n, c in held.items())
    return f"{told}\n{rng.choice(['code of {}?', '{}?', 'which number has {}?']).format(name)}", held[name]
