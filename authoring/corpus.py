"""The pretraining corpus: a seeded random stream of plain documents and chats."""

import random
from collections.abc import Iterator

from authoring.corpus_support import focused_talk, named_talk, support_talk, worded_talk
from authoring.corpus_tasks import COPYING, task_talk
from authoring.corpus_text import Turn, desk_talk, listing, repeats, story, word_row

KINDS = {"story": 8, "listing": 5, "repeats": 8, "words": 4, "desk": 8, "task": 30, "support": 38}
COPYING_FIRST = {"repeats": 30, "copy": 45, "task": 10, "support": 15}
"""The mix at the start of pretraining: copying is learned early if little else can be."""
SUPPORT_LAST = {"story": 5, "listing": 2, "repeats": 3, "desk": 4, "task": 14, "focus": 72}
"""The mix of the second stage: mainly questions about support messages."""
KEYS_LAST = {"story": 5, "listing": 2, "repeats": 3, "desk": 4, "task": 8, "named": 78}
"""The mix of the third stage: the same with more names for the keys."""
CODES_LAST = {"story": 5, "listing": 2, "repeats": 3, "desk": 4, "task": 8, "named": 18, "worded": 60}
"""The mix of the last stage: also codes after any word."""
PLAIN = {"story": story, "listing": listing, "repeats": repeats, "words": word_row}


def documents(count: int, seed: int, kinds: dict[str, int] = KINDS) -> Iterator[str | list[Turn]]:
    """Generate documents: a string is a plain document, a list of turns is a chat."""
    rng = random.Random(seed)
    for kind in rng.choices(list(kinds), weights=list(kinds.values()), k=count):
        if kind == "task":
            yield task_talk(rng)
        elif kind == "copy":
            yield task_talk(rng, COPYING)
        elif kind == "desk":
            yield desk_talk(rng)
        elif kind == "support":
            yield support_talk(rng)
        elif kind == "focus":
            yield focused_talk(rng)
        elif kind == "named":
            yield named_talk(rng)
        elif kind == "worded":
            yield worded_talk(rng)
        else:
            yield PLAIN[kind](rng)
