"""Kill real workers at random moments, including while saving, and print what is lost.

`python -m tests.faults.kill_many [KILLS]` (50 by default). A row per run: kills, checkpoints with a manifest, complete
checkpoints, and whether the losses equal those of the uninterrupted run bit for bit.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from engine.runs.start import start_worker, wait_for_hello

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.worker_runs import (
    DROPOUT,
    TWO_EPOCHS,
    kill_at_random_moment,
    losses,
    manifests_and_complete,
    start,
    wait_for_end,
)

KILLS_PER_RUN = 5


def main(kills: int) -> int:
    rng = random.Random(2026)
    done = with_manifest = complete = 0
    same = True
    often = [*TWO_EPOCHS, *DROPOUT, "--set", "train.checkpoint_every=1"]
    with tempfile.TemporaryDirectory() as folder:
        reference = start(Path(folder) / "reference", *often)
        wait_for_end(reference)
        expected = losses(reference)
        print("run  kills  manifests  complete  losses")
        number = 0
        while done < kills:
            number += 1
            run = start(Path(folder) / f"run{number}", *often)
            kills_of_run = 0
            while kills_of_run < KILLS_PER_RUN and done < kills:
                kill_at_random_moment(run, rng, 1.5)
                done, kills_of_run = done + 1, kills_of_run + 1
                counts = manifests_and_complete(run)
                with_manifest, complete = with_manifest + counts[0], complete + counts[1]
                if run.result() is not None:
                    break
                size = run.events_file.stat().st_size
                wait_for_hello(run, start_worker(run), size)
            wait_for_end(run)
            equal = losses(run) == expected
            same = same and equal
            shown = f"{number:3}  {kills_of_run:5}  {with_manifest:9}  {complete:8}  "
            print(f"{shown}{'equal' if equal else 'DIFFERENT'}", flush=True)
    print(f"{done} kills: {with_manifest - complete} of {with_manifest} checkpoints with a manifest are incomplete")
    print(f"losses {'equal' if same else 'DIFFERENT'}")
    return 0 if same and with_manifest == complete else 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kills", nargs="?", type=int, default=50)
    sys.exit(main(parser.parse_args().kills))
