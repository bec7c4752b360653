"""The pretraining corpus: a seeded random stream of plain documents and chats."""

import random
from collections.abc import Iterator

from engine.assets.build.corpus_tasks import task_talk
from engine.assets.build.corpus_text import Turn, desk_talk, listing, repeats, story, word_row

KINDS = {"story": 14, "listing": 8, "repeats": 8, "words": 7, "desk": 12, "task": 51}
PLAIN = {"story": story, "listing": listing, "repeats": repeats, "words": word_row}


def documents(count: int, seed: int) -> Iterator[str | list[Turn]]:
    """Generate documents: a string is a plain document, a list of turns is a chat."""
    rng = random.Random(seed)
    for kind in rng.choices(list(KINDS), weights=list(KINDS.values()), k=count):
        if kind == "task":
            yield task_talk(rng)
        elif kind == "desk":
            yield desk_talk(rng)
        else:
            yield PLAIN[kind](rng)
