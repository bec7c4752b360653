"""Check generated data files, valid and damaged, as `ftbench data check` does; prints counts and failures.

    python tools/fuzz_data.py --files 10000 --seed 0 --keep failures

Every file must be refused cleanly or get an account that adds up, and the rows trained on must be the expected ones
(`fuzz/judge.py`); otherwise the exit status is 1. `--keep DIR` writes the smallest file of each kind of failure, with
what was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from fuzz.cases import cases  # noqa: E402 - the path above makes it importable
from fuzz.expected import Case  # noqa: E402
from fuzz.judge import Verdict, judge  # noqa: E402
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import seed as seeded  # noqa: E402

BATCH = 250
"""Files per seed: Hypothesis increasingly varies earlier examples, so that many files of one seed are similar."""
MEMORY = 8 << 30
"""Bytes of address space: a file that needs more fails instead of exhausting the machine's memory."""


@dataclass
class Tally:
    """Counts, and the smallest case of each kind of failure."""

    kinds: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(format, expectation, outcome)"""
    containers: Counter[tuple[str, str]] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    failures: dict[str, tuple[Case, Verdict, int]] = field(default_factory=dict)
    slowest: float = 0.0

    def add(self, case: Case, verdict: Verdict, seconds: float) -> None:
        self.kinds[case.format, case.expect, verdict.outcome] += 1
        self.containers[case.container, verdict.outcome] += 1
        self.slowest = max(self.slowest, seconds)
        if verdict.code:
            self.codes[verdict.code] += 1
        if verdict.wrong:
            self._record(signature(case, verdict), (case, verdict, 1))

    def merge(self, other: Tally) -> None:
        """Add the counts of another process."""
        self.kinds += other.kinds
        self.containers += other.containers
        self.codes += other.codes
        self.slowest = max(self.slowest, other.slowest)
        for key, failure in other.failures.items():
            self._record(key, failure)

    def _record(self, key: str, failure: tuple[Case, Verdict, int]) -> None:
        before = self.failures.get(key, failure)
        case, verdict, _ = min(before, failure, key=lambda candidate: size(candidate[0]))
        count = failure[2] + (before[2] if key in self.failures else 0)
        self.failures[key] = case, verdict, count


def size(case: Case) -> int:
    return sum(map(len, case.files.values()))


def signature(case: Case, verdict: Verdict) -> str:
    """Key under which similar failures are counted: names, numbers and quoted text are ignored."""
    lines = verdict.wrong.strip().splitlines()
    message = lines[-1] if verdict.wrong.startswith("Traceback") else lines[0]
    place = [line.strip() for line in lines if line.strip().startswith("File ")][-1:]
    return f"{case.expect}: " + re.sub(r"'[^']*'|\"[^\"]*\"|\d+|/\S+", "…", message)[:120] + " ".join(place)[-80:]


def main() -> int:
    """Generate, check and report; 1 if anything was wrong."""
    options = parse()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tally = run_all(options.files, options.seed, options.jobs, options.minutes)
    print("\n".join(report(tally)))
    if options.keep:
        keep(tally, options.keep)
    return int(bool(tally.failures))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="time limit")
    parser.add_argument("--keep", type=Path, help="folder for the files that failed")
    return parser.parse_args()


def run_all(files: int, seed: int, jobs: int, minutes: float) -> Tally:
    """All files, in batches with separate seeds, in several processes; fewer if the time limit is reached."""
    tally, end = Tally(), time.monotonic() + 60 * minutes
    starts = range(0, files, BATCH)
    sizes = [min(BATCH, files - start) for start in starts]
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for done, part in enumerate(pool.map(batch, sizes, [f"{seed}/{start}" for start in starts]), 1):
            tally.merge(part)
            print(f"{sum(sizes[:done]):,} files, {len(tally.failures)} kinds of failure", file=sys.stderr, flush=True)
            if time.monotonic() > end:
                pool.shutdown(cancel_futures=True)
                break
    return tally


def batch(files: int, seed: str) -> Tally:
    """Counts of `files` files, in a process with limited memory."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    tally = Tally()
    run(files, seed, tally)
    return tally


def run(files: int, seed: str, tally: Tally) -> None:
    """Check `files` generated cases. Failures are collected, not raised, so that all cases are checked."""
    tokenizer = embedded()

    @seeded(seed)
    @settings(
        max_examples=files,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def check_case(case: Case) -> None:
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(case, Path(folder), tokenizer)
        tally.add(case, verdict, time.monotonic() - started)

    check_case()


@cache
def embedded() -> Any:
    """The embedded model's tokenizer."""
    from transformers import AutoTokenizer

    from engine.assets import tiny_folder

    return AutoTokenizer.from_pretrained(tiny_folder())


def report(tally: Tally) -> list[str]:
    """Tables of formats, containers and refusals, and the failures."""
    total = sum(tally.kinds.values())
    valid = sum(count for (_, expect, _), count in tally.kinds.items() if expect == "valid")
    lines = [
        f"{total:,} files, {valid:,} of them valid ({valid / max(1, total):.0%}), slowest {tally.slowest:.1f} s",
        "",
    ]
    lines += ["| format | valid | preference data | odd | damaged | trained | refused | wrong |", "|---|" + "--:|" * 7]
    for name in sorted({kind[0] for kind in tally.kinds}):
        expected = [_sum(tally, name, 1, value) for value in ("valid", "refused", "odd", "broken")]
        outcomes = [_sum(tally, name, 2, value) for value in ("trained", "refused", "wrong")]
        lines.append(f"| {name} | " + " | ".join(f"{count:,}" for count in expected + outcomes) + " |")
    lines += ["", "| container | files | trained | refused | wrong |", "|---|--:|--:|--:|--:|"]
    for name in sorted({kind[0] for kind in tally.containers}):
        outcomes = [tally.containers[name, value] for value in ("trained", "refused", "wrong")]
        lines.append(f"| {name} | {sum(outcomes):,} | " + " | ".join(f"{count:,}" for count in outcomes) + " |")
    lines += ["", "| refused with | files |", "|---|--:|"]
    lines += [f"| {code} | {count:,} |" for code, count in tally.codes.most_common()]
    for key, (case, verdict, count) in sorted(tally.failures.items(), key=urgency):
        lines += [
            "",
            f"**{count} × {key}**",
            f"{case.format}, {case.container}, {case.note or 'valid'}",
            verdict.wrong,
        ]
    return lines


def urgency(failure: tuple[str, tuple[Case, Verdict, int]]) -> tuple[int, int]:
    """Tracebacks first, refusals without a code last."""
    wrong = failure[1][1].wrong
    kind = 0 if wrong.startswith("Traceback") else 2 if wrong.startswith("no code") else 1
    return kind, -failure[1][2]


def _sum(tally: Tally, name: str, place: int, value: str) -> int:
    return sum(count for kind, count in tally.kinds.items() if kind[0] == name and kind[place] == value)


def keep(tally: Tally, folder: Path) -> None:
    """Write the smallest case of each failure: files, settings and what was wrong."""
    for number, (case, verdict, _) in enumerate(tally.failures.values()):
        place = folder / f"{number:03}"
        for name, content in case.files.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
        names = ("path", "options", "max_length", "expect", "format", "container", "note")
        fields = {name: getattr(case, name) for name in names} | {"wrong": verdict.wrong}
        (place / "case.json").write_text(json.dumps(fields, indent=1), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
