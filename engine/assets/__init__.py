"""Where the embedded model and data set lie, so that ftbench works with no network."""

from pathlib import Path

_HERE = Path(__file__).parent


def tiny_folder() -> Path:
    """The pretrained tiny causal model, a plain folder for `from_pretrained`."""
    return _HERE / "tiny"


def tickets_folder() -> Path:
    """The ticket data set: train.jsonl, validation.jsonl and test.jsonl."""
    return _HERE / "tickets"
