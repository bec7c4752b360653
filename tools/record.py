"""Record what must not change, and compare with what is stored.

    python tools/record.py compare                      # all parts but the complete demo and, without --data, smollm2
    python tools/record.py compare families settings    # some
    python tools/record.py record commands              # after a change on purpose: store the part again
    python tools/record.py compare smollm2 --data BANKING77
    python tools/record.py compare complete-demo        # minutes; not in the default

- `quick-demo`: the ladder of `ftbench demo --quick`: events, losses, gradient norms, answers, scores, verdict
- `complete-demo`: the same of `ftbench demo`, with three seeds
- `smollm2`: 8 steps of the presets of SmolLM2 (`ftbench pull smollm2-135m`; `--data`: `train.csv` and `test.csv`)
- `families`: a tiny model of a family for each mechanism, by each method, complete and resumed from a checkpoint
- `settings`: settings of training (precision, packing, optimizers, ranks, …); a run that is stopped and resumed
- `commands`: the help of every command, all settings, and the JSON of every `--json` on fixed inputs

Each part is a file of `recordings/`, or of the folder `--store`. Times, memory, paths and names of runs are left out,
costs too. All else is stored exactly: floats are equal to the bit on CPUs with the same instruction sets, libraries
and one thread. `compare` says where these differ, prints a table of the fields with their first differing value, and
exits with 1 if there are any. `--with FOLDER` compares two stored recordings without running anything.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from recorder import commands, runs
from recorder.differences import print_differences
from recorder.normal import Recording, read_recording, write_recording

from engine.config.catalog import pulled_folder

STORED = Path(__file__).parent / "recordings"
Part = Callable[[Path], Iterator[tuple[str, Any]]]
PARTS: dict[str, Part] = {
    "commands": commands.commands,
    "families": runs.families,
    "settings": runs.settings,
    "quick-demo": runs.quick_demo,
    "complete-demo": runs.complete_demo,
}
SMOLLM2, LONG, PULLED = "smollm2", "complete-demo", "smollm2-135m"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "compare"))
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join([*PARTS, SMOLLM2])}")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="of Banking77, for smollm2")
    parser.add_argument("--model", type=Path, default=pulled_folder(PULLED), metavar="FOLDER", help="of SmolLM2")
    parser.add_argument("--store", type=Path, default=STORED, metavar="FOLDER", help="of the recordings")
    parser.add_argument("--with", dest="other", type=Path, metavar="FOLDER", help="compare with the recordings there")
    options = parser.parse_args()
    parts = dict(PARTS)
    if options.data and (options.model / "config.json").exists():
        parts[SMOLLM2] = partial(runs.smollm2, model=options.model.resolve(), data=options.data.resolve())
    chosen = options.parts or [name for name in (*PARTS, SMOLLM2) if name != LONG]
    if unknown := [name for name in chosen if name not in (*PARTS, SMOLLM2)]:
        parser.error(f"unknown part {unknown[0]!r}: use {', '.join([*PARTS, SMOLLM2])}")
    different = False
    for name in chosen:
        stored = options.store / f"{name}.jsonl"
        if name not in parts:
            print(f"{name}: skipped, as it needs `ftbench pull {PULLED}` and --data")
        elif options.action == "record":
            print(name, flush=True)
            write_recording(stored, recorded(parts[name]))
        elif not stored.exists():
            print(f"{name}: skipped, as nothing is stored")
        else:
            print(name, flush=True)
            different |= print_differences(read_recording(stored), now(name, parts[name], options.other))
    return int(different)


def now(name: str, part: Part, other: Path | None) -> Recording:
    """What a part computes now, or what another folder has of it."""
    if other:
        return read_recording(other / f"{name}.jsonl")
    with tempfile.TemporaryDirectory(prefix="recorded-") as folder:
        file = Path(folder) / "now.jsonl"
        write_recording(file, recorded(part))
        return read_recording(file)


def recorded(part: Part) -> Iterator[tuple[str, Any]]:
    """What a part records, with a home of its own."""
    with tempfile.TemporaryDirectory(prefix="recorded-") as name:
        home = Path(name).resolve()
        for variable in ("FTBENCH_LOCKS", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"):
            (home / variable.lower()).mkdir()
            os.environ[variable] = str(home / variable.lower())
        os.environ["FTBENCH_RUNS"] = str(home / "runs")
        os.chdir(home)
        yield from part(home)
        os.chdir(Path(__file__).parent)


if __name__ == "__main__":
    sys.exit(main())
