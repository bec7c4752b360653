"""Paths of the embedded model and dataset, with which ftbench works without a network."""

from pathlib import Path

_HERE = Path(__file__).parent


def tiny_folder() -> Path:
    """The pretrained tiny causal model, a folder for `from_pretrained`."""
    return _HERE / "tiny"


def tickets_folder() -> Path:
    """The ticket dataset: train.jsonl, validation.jsonl and test.jsonl."""
    return _HERE / "tickets"


def general_file() -> Path:
    """English prose in many registers, with blank lines between passages, for measuring forgetting."""
    return _HERE / "general.txt"


def tiny_general_file() -> Path:
    """The same for the tiny model, in the language of its pretraining corpus."""
    return _HERE / "tiny_general.txt"
