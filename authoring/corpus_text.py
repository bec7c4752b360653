"""Plain documents of the pretraining corpus: short stories, lists, records and support conversations."""

import json
import random

from authoring import corpus_words as words

Turn = dict[str, str]


def code(rng: random.Random) -> str:
    """A random identifier; copying these teaches the model to attend to earlier tokens."""
    letters = "".join(rng.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=rng.randint(0, 4)))
    return letters + "".join(rng.choices("0123456789", k=rng.randint(2, 6)))


def fill(phrase: str, rng: random.Random) -> str:
    word = rng.choice(words.THINGS + words.FOODS + words.ANIMALS)
    return phrase.format(
        a=f"{rng.choice(['the', 'a', 'my'])} {word}",
        b=rng.choice(words.PLACES),
        t=rng.choice(words.TIMES),
        j=rng.choice(words.ADJECTIVES),
        m=rng.choice(words.MONTHS),
        n=rng.choice(words.NUMBERS),
        c=code(rng),
        p=rng.choice(words.PEOPLE).title(),
    )


def noun(rng: random.Random) -> str:
    word = rng.choice(words.THINGS + words.ANIMALS + words.FOODS)
    mark = rng.choice(["the", "a", "my", "your", "his", "her", "this", "that", "our"])
    return f"{mark} {rng.choice(words.ADJECTIVES)} {word}" if rng.random() < 0.5 else f"{mark} {word}"


def sentence(who: str, rng: random.Random) -> str:
    now, past = rng.choice(words.VERBS)
    place, time = rng.choice(words.PLACES), rng.choice(words.TIMES)
    return rng.choice(
        [
            f"{who} {past} {noun(rng)} in the {place}.",
            f"{who} {now} {noun(rng)} and goes to the {place}.",
            f"{time} {who} {past} {noun(rng)}.",
            f"{who} said: {noun(rng)} is {rng.choice(words.ADJECTIVES)}.",
            f"why is {noun(rng)} so {rng.choice(words.ADJECTIVES)}?",
            f"{who} did not like {noun(rng)}.",
            f"there is {noun(rng)} at the {place}.",
            f"{who} has {rng.choice(words.NUMBERS)} of them.",
            f"i think that {who} will be here {time}.",
            f"it was {rng.choice(words.ADJECTIVES)}, so {who} left.",
            f"{who} asked {rng.choice(words.PEOPLE)} about {noun(rng)}, but nobody had it.",
            f"we could not see {noun(rng)} because of the {rng.choice(words.WEATHER)}.",
        ]
    )


def story(rng: random.Random) -> str:
    who = rng.choice(words.PEOPLE)
    lines = [
        sentence(who if rng.random() < 0.7 else rng.choice(["he", "she", "it"]), rng) for _ in range(rng.randint(3, 7))
    ]
    return cased(" ".join(lines), rng)


def cased(text: str, rng: random.Random, capitals: float = 0.08) -> str:
    """Mostly sentence case, sometimes all lower or upper case, so that the model handles any case."""
    style = rng.random()
    if style < capitals:
        return text.upper()
    if style < 0.27 + capitals:
        return text
    parts = text.split(". ")
    return ". ".join(part[:1].upper() + part[1:] for part in parts)


def slot_value(key: str, rng: random.Random) -> str:
    choices = words.SLOTS[key]
    if choices:
        return rng.choice(choices)
    return str(rng.randint(2, 9999)) if key in ("number", "price") else code(rng)


def record(rng: random.Random, least: int = 2, most: int = 6) -> dict[str, str | None]:
    """A record of known keys; in one of three cases, random keys with random values."""
    if rng.random() < 0.35:
        keys = rng.sample(words.EVERYDAY, rng.randint(least, most))
        return {key: None if rng.random() < 0.15 else any_value(rng) for key in keys}
    keys = rng.sample(list(words.SLOTS), rng.randint(least, most))
    return {key: None if rng.random() < 0.15 else slot_value(key, rng) for key in keys}


def any_value(rng: random.Random) -> str:
    return code(rng) if rng.random() < 0.25 else rng.choice(words.EVERYDAY + words.THINGS)


def listing(rng: random.Random) -> str:
    """Records as JSON lines or as `key: value` lines."""
    records = [record(rng) for _ in range(rng.randint(1, 3))]
    if rng.random() < 0.7:
        return "\n".join(compact(r) for r in records)
    return "\n\n".join("\n".join(f"{k}: {v or '-'}" for k, v in r.items()) for r in records)


def compact(record_: dict[str, str | None]) -> str:
    return json.dumps(record_, separators=(",", ":"))


def repeats(rng: random.Random) -> str:
    """The same random items repeated: the simplest copying task."""
    names = words.THINGS + words.CITIES + words.EVERYDAY
    items = [code(rng) if rng.random() < 0.5 else rng.choice(names) for _ in range(rng.randint(3, 8))]
    return " ".join(items * rng.randint(2, 3))


def word_row(rng: random.Random) -> str:
    """Random everyday words, so that every common word occurs in pretraining."""
    return cased(" ".join(rng.sample(words.EVERYDAY, rng.randint(5, 25))), rng)


def desk_talk(rng: random.Random) -> list[Turn]:
    turns: list[Turn] = []
    for _ in range(rng.randint(1, 3)):
        ask = cased(fill(rng.choice(words.DESK_ASKS), rng), rng)
        turns.append({"role": "user", "content": ask + rng.choice(["", "?", ".", " please", "!"])})
        turns.append({"role": "assistant", "content": cased(fill(rng.choice(words.DESK_REPLIES), rng), rng)})
    return turns
