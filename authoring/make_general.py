"""Write the tiny model's general text: stories like those of its pretraining, from a different seed.

`python -m authoring.make_general` reproduces the file exactly. The text for larger models is `general.txt`,
prose written for this purpose.
"""

from authoring.corpus import documents
from engine.assets import tiny_general_file

SEED = 90_001
PASSAGES, SHORTEST = 24, 200
"""Number of passages, and minimum characters of a passage."""


def passages() -> list[str]:
    plain = (document for document in documents(500, SEED, {"story": 1}) if isinstance(document, str))
    long_enough = (" ".join(text.split()) for text in plain if len(text) >= SHORTEST)
    return [text for text, _ in zip(long_enough, range(PASSAGES), strict=False)]


if __name__ == "__main__":
    tiny_general_file().write_text("\n\n".join(passages()) + "\n", "utf-8")
