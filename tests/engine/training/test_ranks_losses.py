"""Two ranks train as one does: the same losses for every method, with whole and with sharded weights."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from forked import PYTHON, ForkedProcess

pytestmark = pytest.mark.slow
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder, output = tmp_path_factory.mktemp("ranks"), tmp_path_factory.mktemp("output")
    ranks = []
    for rank in ("0", "1"):
        env = {**os.environ, "RANK": rank, "WORLD_SIZE": "2", "PYTHONPATH": str(Path(__file__).parent)}
        with (output / rank).open("w") as printed, (output / f"{rank}.log").open("w") as log:
            program = [*PYTHON, "rank_program", str(folder)]
            ranks.append(ForkedProcess(program, stdin=subprocess.DEVNULL, stdout=printed, stderr=log, env=env))
    assert [rank.wait(1200) for rank in ranks] == [0, 0], [log.read_text() for log in output.glob("*.log")]
    results: dict[str, dict[str, Any]] = json.loads((output / "0").read_text().splitlines()[-1])
    return results


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_losses_and_answers_are_those_of_one_rank(trained: dict[str, dict[str, Any]], method: str, kind: str) -> None:
    expected, actual = trained[method]["single"]["losses"], trained[method][kind]["losses"]
    assert trained[method][kind]["answers"] == trained[method]["single"]["answers"]
    assert len(expected) == len(actual) == 6 and expected[-1] < expected[0] - 0.1
    assert max(abs(loss - other) for loss, other in zip(expected, actual, strict=True)) < TOLERANCE


def test_all_ranks_halve_the_micro_batch_of_one_that_is_out_of_memory(trained: dict[str, dict[str, Any]]) -> None:
    expected, tight = trained["lora"]["single"], trained["lora"]["tight"]
    assert tight["micro_batches"] == [1, 1] and trained["lora"]["ddp"]["micro_batches"] == [2, 2]
    pairs = zip(expected["losses"], tight["losses"], strict=True)
    assert max(abs(loss - other) for loss, other in pairs) < TOLERANCE
