"""The family matrix: every family of the installed transformers, tiny and random, through what a run does with it.

    python tools/families.py                  # all families, about a second of CPU time for each check
    python tools/families.py qwen3_5 gpt_oss  # some; the others keep their rows

gemma3n needs timm and torchvision, for its vision tower; without them its row says so.

For each family and method the model is loaded and made trainable as a worker does it, and every weight is accounted
for. With LoRA also: how rows are packed and whether they are independent, whether the gradient of a step is that of its
rows alone (packed as chosen, and padded), whether training resumed from a checkpoint continues with the same losses to
the bit, and whether the merged model is what the class that a server uses loads. Each family is a process of its own
with limits of time and memory; what fails is a row, never the end of the program.

Writes `engine/config/families.jsonl`, from which `docs/generate.py` makes the table of docs/models.md, and which plans
read to say that a family was not tested. A family that is new in transformers is listed there as not tested.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import peft
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from family_checks import Result, attempt, check_family
from tiny_configs import installed_families

from engine.config.method_specs import method_names
from engine.config.model_config import FILE

MEMORY = 24 << 30
"""Address space of a family's process, in bytes; the libraries alone map several GiB."""
CPU_SECONDS = 120
SECONDS = 600
"""Time limit of a family, which waits for other processes too."""


def in_process(kind: str, folder: Path) -> Result:
    """The row of a family, computed in a fork with limits of time and memory."""
    answer = folder / "row.json"
    child = os.fork()
    if not child:
        status = 1
        try:
            signal.alarm(SECONDS)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            with (folder / "log").open("w") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                row = attempt(lambda: check_family(kind, folder))
            answer.write_bytes(msgspec.json.encode({"family": kind, **row}))
            status = 0
        finally:
            os._exit(status)
    _, code = os.waitpid(child, 0)
    if answer.exists():
        return dict(json.loads(answer.read_text()))
    return {"family": kind, "state": "error", "error": f"the process ended with {os.waitstatus_to_exitcode(code)}"}


def verdict(row: Result) -> str:
    """One line about a row."""
    if "state" in row:
        return f"{row['state']}: {row.get('error', '')}"
    methods = " ".join(f"{name} {row[name]['state']}" for name in method_names())
    rest = [str(row.get(key, {}).get("error") or row.get(key, {})) for key in ("rows", "resume", "merged")]
    return f"{methods} | {' | '.join(rest)}"


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="families-") as name:
        (Path(name) / "resume").mkdir()
        yield Path(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("families", nargs="*")
    parser.add_argument("--parts", default="1/1", help="2/3: the second of three parts of the families")
    parser.add_argument("--out", type=Path, default=FILE)
    options = parser.parse_args()
    part, parts = map(int, options.parts.split("/"))
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    everything = installed_families()
    chosen = options.families or everything[part - 1 :: parts]
    rows = {}
    if options.out.exists():
        rows = {row["family"]: row for row in map(json.loads, options.out.read_text().splitlines()[1:])}
    for kind in chosen:
        started = time.monotonic()
        with scratch_folder() as folder:
            rows[kind] = in_process(kind, folder)
        print(f"{kind:24} {time.monotonic() - started:5.1f} s  {verdict(rows[kind])}", flush=True)
        write(options.out, rows, everything)


def write(path: Path, rows: dict[str, Result], everything: Sequence[str]) -> None:
    """A first line about the versions and the families without a row, and a line for each family."""
    head = {
        "transformers": transformers.__version__,
        "torch": torch.__version__.split("+")[0],
        "peft": peft.__version__,
        "untested": [kind for kind in everything if kind not in rows],
    }
    lines = [head, *(rows[kind] for kind in sorted(rows))]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


if __name__ == "__main__":
    main()
