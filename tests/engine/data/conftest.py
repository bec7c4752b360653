"""Shared by the tests of data."""

from __future__ import annotations

import pytest
from data_fixtures import prepare_without_children

IN_CHILDREN = ("test_parallel", "test_cache")
"""Modules of tests that need the child processes, whose kernel limits end a template."""


@pytest.fixture(autouse=True)
def one_process(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prepare data in the test's process, except where the children are tested."""
    if request.module.__name__.rpartition(".")[2] not in IN_CHILDREN:
        prepare_without_children(monkeypatch)
