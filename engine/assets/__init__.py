"""Where the embedded model and data set lie, so that ftbench works with no network."""

from pathlib import Path

_HERE = Path(__file__).parent


def tiny_folder() -> Path:
    """The pretrained tiny causal model, a plain folder for `from_pretrained`."""
    return _HERE / "tiny"


def tickets_folder() -> Path:
    """The ticket data set: train.jsonl, validation.jsonl and test.jsonl."""
    return _HERE / "tickets"


def general_file() -> Path:
    """English prose in many registers, passages parted by blank lines: what a tuned model should not forget."""
    return _HERE / "general.txt"


def tiny_general_file() -> Path:
    """The same for the tiny model, in the only language it knows: its pretraining corpus'."""
    return _HERE / "tiny_general.txt"
