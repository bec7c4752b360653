"""Two ranks train as one does: the same losses for every method, with whole and with sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("rank_program.py")
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(folder)],
            env={**os.environ, "RANK": str(rank), "WORLD_SIZE": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    results = [rank.communicate() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], results
    done = results[0][0]
    found: dict[str, dict[str, Any]] = json.loads(done.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_losses_and_answers_are_those_of_one_rank(trained: dict[str, dict[str, Any]], method: str, kind: str) -> None:
    expected, found = trained[method]["single"]["losses"], trained[method][kind]["losses"]
    assert trained[method][kind]["answers"] == trained[method]["single"]["answers"]
    assert len(expected) == len(found) == 20 and expected[-1] < expected[0] - 0.1
    assert max(abs(one - other) for one, other in zip(expected, found, strict=True)) < TOLERANCE


def test_all_ranks_halve_the_micro_batch_of_one_that_is_out_of_memory(trained: dict[str, dict[str, Any]]) -> None:
    expected, found = trained["lora"]["single"], trained["lora"]["tight"]
    assert found["micro_batches"] == [1, 1] and trained["lora"]["ddp"]["micro_batches"] == [2, 2]
    pairs = zip(expected["losses"], found["losses"], strict=True)
    assert max(abs(one - other) for one, other in pairs) < TOLERANCE
