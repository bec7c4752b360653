"""Small tasks in chat form for pretraining: copying, looking up, classifying and filling JSON.

Every schema is random and every request contains its keys, so the model learns to read a request. It never sees the
ticket schema, which is left to fine-tuning.
"""

import random
from collections.abc import Callable

from authoring import corpus_words as words
from authoring.corpus_support import code_of, spelled, support_code
from authoring.corpus_text import Turn, cased, code, compact, fill, record, sentence

Task = Callable[[random.Random], tuple[str, str]]


def say_slot(key: str, value: str, rng: random.Random) -> str:
    shown = value.lower() if rng.random() < 0.2 else value
    return rng.choice(
        [
            f"the {key} is {shown}",
            f"{key} {shown}",
            f"{key}: {shown}",
            f"{shown} is the {key}",
            f"as {key} take {shown}",
            f"my {key} is {shown}",
            f"we have {shown} as {key}",
            f"{shown} for the {key}",
        ]
    )


def upper_codes(value: str | None) -> str | None:
    return value.upper() if value and any(c.isdigit() for c in value) else value


def fill_json(rng: random.Random) -> tuple[str, str]:
    """Extract JSON with the requested keys from a note; missing values are null."""
    wanted = record(rng)
    said = [say_slot(k, v, rng) for k, v in wanted.items() if v is not None]
    for _ in range(rng.randint(0, 2)):
        said.append(sentence(rng.choice(words.PEOPLE), rng).rstrip("."))
    rng.shuffle(said)
    note = cased(rng.choice([". ", ", ", "\n", "; "]).join(said), rng)
    ask = rng.choice(["json with", "fill", "keys:", "give json for"])
    answer = {k: upper_codes(v) for k, v in wanted.items()}
    return f"{ask} {', '.join(wanted)}\n{note}", compact(answer)


def look_up(rng: random.Random) -> tuple[str, str]:
    held = {k: v for k, v in record(rng, 2, 7).items() if v is not None} or {"code": code(rng)}
    key = rng.choice(list(held))
    return f"{compact(dict(held))}\nwhat is the {key}?", held[key]


def repeat(rng: random.Random) -> tuple[str, str]:
    text = rng.choice(
        [
            " ".join(code(rng) for _ in range(rng.randint(1, 4))),
            sentence(rng.choice(words.PEOPLE), rng),
            " ".join(rng.sample(words.THINGS + words.EVERYDAY, rng.randint(2, 8))),
        ]
    )
    return f"{rng.choice(['repeat', 'copy', 'say again'])}: {text}", text


def find_code(rng: random.Random) -> tuple[str, str]:
    """Extract the identifier from a text, in capitals, however it is written."""
    wanted = support_code(rng)
    shown = spelled(wanted, rng)
    lines = [sentence(rng.choice(words.PEOPLE), rng) for _ in range(rng.randint(1, 3))]
    told = rng.choice([f"see {shown}.", f"it is {shown}.", f"({shown})", f"{shown} is it."])
    lines.insert(rng.randint(0, len(lines)), told)
    return f"{rng.choice(['code', 'which code'])}?\n{' '.join(lines)}", wanted


def capitals(rng: random.Random) -> tuple[str, str]:
    text = code(rng) if rng.random() < 0.5 else rng.choice(words.EVERYDAY + words.PEOPLE)
    if rng.random() < 0.5:
        return f"capitals: {text.lower()}", text.upper()
    return f"lower case: {text.upper()}", text.lower()


def sort_word(rng: random.Random) -> tuple[str, str]:
    """Classify a text into one of the given groups."""
    options = rng.sample(list(words.GROUPS), rng.randint(2, 4))
    group = rng.choice(options)
    word = rng.choice(words.GROUPS[group])
    who = rng.choice(words.PEOPLE)
    text = rng.choice(
        [
            f"{who} talks about {word}",
            f"more {word} for {who}",
            word,
            f"the {word} was on my mind",
            f"{who} knows a lot about {word} since {rng.choice(words.TIMES)}",
        ]
    )
    return f"{' or '.join(options)}?\n{text}", group


def who_has(rng: random.Random) -> tuple[str, str]:
    people = rng.sample(words.PEOPLE, rng.randint(2, 4))
    things = rng.sample(words.THINGS, len(people))
    said = " ".join(f"{p} has the {t}." for p, t in zip(people, things, strict=True))
    at = rng.randrange(len(people))
    return f"{said} who has the {things[at]}?", people[at]


def reply_json(rng: random.Random) -> tuple[str, str]:
    """A support message and a request for values in it, which combines small talk and JSON."""
    wanted = {"code": code(rng), "place": rng.choice(words.PLACES), "day": rng.choice(words.TIMES)}
    keys = rng.sample(list(wanted), rng.randint(1, 3))
    opening = rng.choice(["i left it at the {b} {t}", "thank you {p}", "the {j} one please", "we were {j}"])
    text = fill(opening, rng)
    text += f". i will be at the {wanted['place']} {wanted['day']} with {wanted['code']}"
    return f"json with {', '.join(keys)}\n{cased(text, rng)}", compact({k: wanted[k] for k in keys})


TASKS: list[tuple[Task, int]] = [
    (fill_json, 25),
    (look_up, 10),
    (repeat, 12),
    (code_of, 20),
    (find_code, 12),
    (capitals, 6),
    (sort_word, 10),
    (who_has, 5),
    (reply_json, 5),
]


COPYING: list[tuple[Task, int]] = [(repeat, 30), (code_of, 40), (look_up, 15), (find_code, 15)]


def task_talk(rng: random.Random, tasks: list[tuple[Task, int]] = TASKS) -> list[Turn]:
    turns: list[Turn] = []
    if rng.random() < 0.15:
        rule = rng.choice(["answer in short.", "you help at a desk.", "be exact."])
        turns.append({"role": "system", "content": rule})
    for _ in range(rng.choice([1, 1, 1, 2])):
        task = rng.choices([t for t, _ in tasks], weights=[w for _, w in tasks])[0]
        asked, answered = task(rng)
        turns += [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]
    return turns
