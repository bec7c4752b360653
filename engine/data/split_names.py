"""The split that the name of a file or Hub split implies."""

from __future__ import annotations

import re

from engine.config.data_files import is_data_file

SPLITS = ("train", "validation", "test")
_WORDS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test", "testing"),
}


def split_of(name: str) -> str | None:
    """The split at the start or end of a file's name, else of its folder: train-00000.parquet, my_dev.csv."""
    stem = stem_of(name).lower()
    for split, words in _WORDS.items():
        joined = "|".join(words)
        if re.search(rf"^({joined})(?![a-z])|(?<![a-z])({joined})$", stem):
            return split
    return split_of(name.rsplit("/", 1)[0]) if "/" in name else None


def stem_of(name: str) -> str:
    """`data/train.jsonl.gz` -> `train`."""
    stem = name.rsplit("/", 1)[-1].removesuffix(".gz")
    return stem.rsplit(".", 1)[0] if is_data_file(stem) else stem
