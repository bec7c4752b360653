"""Kills real workers at random moments, saving included, and prints what was lost.

`python -m tests.faults.kill_many [KILLS]` (50 unless given). A row per run: kills, checkpoints that claim to be
complete, those that are, and whether the losses are the uninterrupted run's bit for bit.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

from engine.runs import launch

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.lives import (
    DROPOUT,
    TWO_EPOCHS,
    claims_and_loads,
    kill_at_a_random_moment,
    losses,
    start,
    wait_until_over,
)

KILLS_A_RUN = 5


def main(kills: int) -> int:
    rng = random.Random(2026)
    done = claimed = whole = 0
    same = True
    often = [*TWO_EPOCHS, *DROPOUT, "--set", "train.checkpoint_every=1"]
    with tempfile.TemporaryDirectory() as folder:
        reference = start(Path(folder) / "reference", *often)
        wait_until_over(reference)
        expected = losses(reference)
        print("run  kills  claimed  whole  losses")
        number = 0
        while done < kills:
            number += 1
            run = start(Path(folder) / f"run{number}", *often)
            here = 0
            while here < KILLS_A_RUN and done < kills:
                kill_at_a_random_moment(run, rng, 1.5)
                done, here = done + 1, here + 1
                found = claims_and_loads(run)
                claimed, whole = claimed + found[0], whole + found[1]
                if run.result() is not None:
                    break
                size = run.events_file.stat().st_size
                launch.wait_for_hello(run, launch.launch(run), size)
            wait_until_over(run)
            equal = losses(run) == expected
            same = same and equal
            print(f"{number:3}  {here:5}  {claimed:7}  {whole:5}  {'the same' if equal else 'DIFFERENT'}", flush=True)
    print(f"{done} kills: {claimed - whole} of {claimed} checkpoints claimed to be whole and were not")
    print(f"losses {'equal' if same else 'DIFFERENT'}")
    return 0 if same and claimed == whole else 1


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 50))
