"""Which errors of a download mean that the Hub refused it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from engine.methods.model_source import refused_as


class FromHub(OSError):
    """An error with the Hub's response, as huggingface_hub's."""

    def __init__(self, status: int, text: str = "", name: str = "") -> None:
        super().__init__(text)
        self.response = SimpleNamespace(status_code=status, headers={"X-Error-Code": name} if name else {})


def wrapped(cause: Exception, text: str) -> OSError:
    """As transformers raises it."""
    error = OSError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (FromHub(401), "gated"),
        (FromHub(403), "gated"),
        (FromHub(401, name="GatedRepo"), "gated"),
        (FromHub(401, name="RepoNotFound"), "not_found"),
        (FromHub(404, name="RepoNotFound"), "not_found"),
        (FromHub(404, name="EntryNotFound"), ""),
        (wrapped(FromHub(403), "We couldn't load the files"), "gated"),
        (OSError("You are trying to access a gated repo."), "gated"),
        (FromHub(500, "Server Error (Request ID: Root=1-65f-4034a;401)"), ""),
        (FromHub(404, "If you are trying to access a private or gated repo, log in"), ""),
        (wrapped(FromHub(404), "not a valid model identifier; a gated repo needs a token"), ""),
        (OSError("cannot read shard 401 of 403"), ""),
    ],
)
def test_a_refusal_is_named(error: Exception, refusal: str) -> None:
    assert refused_as(error) == refusal
