"""Generated data files, valid and damaged: refused cleanly, or accounted for and trained on as intended.

A fixed sample of what `tools/fuzz_data.py` runs at length.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from places import TOOLS

pytest.importorskip("hypothesis")
sys.path.insert(0, str(TOOLS))

import fuzz_data

FILES = 250


@pytest.fixture(scope="module")
def tally(tmp_path_factory: pytest.TempPathFactory) -> fuzz_data.Tally:
    """The verdicts on all files, computed once; in a new process, because Hypothesis also draws constants of imported
    modules, which depend on the tests before this one.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(fuzz_data.batch, FILES, "suite").result()


def test_every_file_is_refused_cleanly_or_accounted_for_and_trained_on_as_intended(tally: Any) -> None:
    assert not tally.failures, "\n".join(fuzz_data.report(tally))


def test_half_of_the_files_are_valid_and_most_of_those_are_trained_on(tally: Any) -> None:
    outcomes = Counter((expect, outcome) for (_, expect, outcome), count in tally.kinds.items() for _ in range(count))
    valid = outcomes["valid", "trained"] + outcomes["valid", "refused"]
    assert sum(outcomes.values()) == FILES <= 2 * valid
    assert outcomes["valid", "refused"] < 0.2 * valid
