"""Which errors of a download mean that the Hub refused it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.methods.locate import is_refused


class FromHub(OSError):
    """An error with the Hub's response, as huggingface_hub's."""

    def __init__(self, status: int, text: str = "") -> None:
        super().__init__(text)
        self.response = SimpleNamespace(status_code=status)


def wrapped(cause: Exception, text: str) -> OSError:
    """As transformers raises it."""
    error = OSError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (FromHub(401), True),
        (FromHub(403), True),
        (wrapped(FromHub(403), "We couldn't load the files"), True),
        (OSError("You are trying to access a gated repo."), True),
        (FromHub(500, "Server Error (Request ID: Root=1-65f-4034a;401)"), False),
        (FromHub(404, "If you are trying to access a private or gated repo, log in"), False),
        (wrapped(FromHub(404), "not a valid model identifier; a gated repo needs a token"), False),
        (OSError("cannot read shard 401 of 403"), False),
    ],
)
def test_only_a_refusal_is_one(error: Exception, refused: bool) -> None:
    assert is_refused(error) is refused
