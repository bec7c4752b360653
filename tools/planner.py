"""Accuracy of memory plans: predicted against measured peaks, as Markdown tables.

    OMP_NUM_THREADS=1 python tools/planner.py [PART …] [--measured FILE]

Parts: grid, others, checkpointing, in_backward, catalog, published, speed, growth. The first four train small models
with random weights on the CPU under the allocator's profiler (`planning/measure.py`); `--measured` stores these
figures and reuses stored ones. `checkpointing` also compares formula and dry run for the shape of Llama-3.1-8B on a
GPU, and prints what `auto` chooses on listed ones. `catalog` compares both for the smallest catalog model of each
type. `published` compares with published peaks on GPUs, `speed` measures CPU seconds for the three methods with the
shape of Llama-3.1-8B. `growth` prints how the resident set grows while LoRA trains on the CPU (`planning/growth.py`).
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from planning import growth, published
from planning.grid import SHAPES, Case, checkpointed, grid, in_backward, others
from planning.measure import MACHINE, Measured, measured_apart, quieten

from engine.config.catalog import CATALOG, CatalogEntry
from engine.config.device_defaults import OFFLOADED, RECOMPUTING, describe_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.preset import Preset, resolve
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.formula.automatic import resolve_automatic
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.memory.formula.fit import FitQuery
from engine.memory.formula.formula import formula
from engine.memory.formula.memory_budget import listed_budget

LLAMA_8B = transformers.LlamaConfig(
    hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
    vocab_size=128256, tie_word_embeddings=False, max_position_embeddings=131072,
)  # fmt: skip
PARTS = ("grid", "others", "checkpointing", "in_backward", "catalog", "published", "speed", "growth")
MEDIAN, WORST, UNDER, FORMULA_WORST, PUBLISHED_WORST = 0.02, 0.05, -0.02, 0.25, 0.10
"""Targets, as shares of the measured peak."""


@dataclass(frozen=True)
class Compared:
    """Measured peaks of a case, and the relative errors of both estimates for training, losses and answers."""

    name: str
    measured: Measured
    dry_run: tuple[float, float, float]
    formula: tuple[float, float, float]


def _part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"unknown part {name!r}: use {', '.join(PARTS)}")
    return name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", type=_part, help=", ".join(PARTS))  # with choices, none given is an error
    parser.add_argument("--measured", type=Path, metavar="FILE", help="JSON lines of measured peaks")
    options = parser.parse_args()
    parts = options.parts or PARTS
    quieten()
    met = True
    comparisons: list[Compared] = []
    if "grid" in parts:
        comparisons += print_compared("The grid", grid(), options.measured)
    if "others" in parts:
        comparisons += print_compared("Other architectures, optimizers, dtypes", others(), options.measured)
    if "checkpointing" in parts:
        comparisons += print_compared("Every n-th layer checkpointed", checkpointed(), options.measured)
        print_choices()
    if "in_backward" in parts:
        comparisons += print_compared("The step in the backward pass", in_backward(), options.measured)
    if comparisons:
        print("### All measured configurations\n")
        met &= print_summary(comparisons)
    if "catalog" in parts:
        print_catalog()
    if "published" in parts:
        met &= print_published()
    if "speed" in parts:
        print_speed()
    if "growth" in parts:
        growth.print_table()
    return 0 if met else 1


def print_compared(title: str, cases: Iterable[Case], file: Path | None) -> list[Compared]:
    """Print a table and its summary."""
    print(f"### {title}\n\n| model · method · activations · rows × tokens | training, MB | dry run | formula |", end="")
    print(" held-out, MB | dry run | formula | answers, MB | dry run | formula |\n|" + "---|" * 10)
    comparisons = []
    for case in cases:
        comparison = compared(case, file)
        comparisons.append(comparison)
        real = (comparison.measured.training, comparison.measured.held_out, comparison.measured.answering)
        cells = zip(real, comparison.dry_run, comparison.formula, strict=True)
        line = "".join(f" {size / 1e6:,.1f} | {dry:+.2%} | {light:+.1%} |" for size, dry, light in cells)
        print(f"| {comparison.name} |{line}", flush=True)
    print()
    print_summary(comparisons)
    return comparisons


def print_summary(comparisons: list[Compared]) -> bool:
    """Print the errors of all peaks; returns whether the targets were met."""
    dry, light = (
        [error for comparison in comparisons for error in getattr(comparison, tier)] for tier in ("dry_run", "formula")
    )
    median, worst, under = statistics.median(map(abs, dry)), max(map(abs, dry)), min(dry)
    formula_worst = max(map(abs, light))
    met = median <= MEDIAN and worst <= WORST and under >= UNDER and formula_worst <= FORMULA_WORST
    print(
        f"{len(comparisons)} configurations, {len(dry)} peaks. Dry run: median {median:.2%}, worst {worst:.2%}, ",
        end="",
    )
    print(f"lowest {min(under, 0):.2%}. Formula: median {statistics.median(map(abs, light)):.1%}, ", end="")
    print(f"worst {formula_worst:.1%}, lowest {min(*light, 0):.1%}. {'Targets met.' if met else 'TARGETS MISSED.'}\n")
    return met


def compared(case: Case, file: Path | None) -> Compared:
    """Dry run and formula against the measured peaks."""
    real = known(case, file)
    exact = dry_run(case.config, SHAPES[case.shape], MACHINE, case.rows)
    light = formula(case.config, SHAPES[case.shape].to_dict(), "cpu", case.rows, MACHINE.bf16)
    return Compared(case.name, real, _errors(exact, real), _errors(light, real))


def _errors(estimate: MemoryEstimate, real: Measured) -> tuple[float, float, float]:
    assert estimate.held_out and estimate.answering
    return (
        estimate.training.total / real.training - 1,
        estimate.held_out.total / real.held_out - 1,
        estimate.answering.total / real.answering - 1,
    )


def known(case: Case, file: Path | None) -> Measured:
    """Measured peaks from the file, or measured now and appended to it."""
    for line in file.read_text("utf-8").splitlines() if file and file.exists() else []:
        entry = json.loads(line)
        if entry.pop("name") == case.name:
            return Measured(**entry)
    real = measured_apart(case)
    if file:
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({"name": case.name, **asdict(real)}) + "\n")
    return real


def print_published() -> bool:
    """Print published peaks on GPUs; returns whether the target was met."""
    print("### Published peaks on GPUs\n\n| source | what | published, GB | dry run | formula | what differs |")
    print("|---|---|---|---|---|---|")
    errors, light = [], []
    for case in published.published():
        peak = published.predicted(case)
        errors.append(peak / case.peak - 1)
        light.append(published.by_formula(case) / case.peak - 1)
        row = f"| {case.source} | {case.description} | {case.peak / 1e9:.2f} | {errors[-1]:+.1%} | {light[-1]:+.1%} "
        print(f"{row}| {case.differs} |", flush=True)
    met = max(map(abs, errors)) <= PUBLISHED_WORST
    print(f"\nWorst: dry run {max(map(abs, errors)):.1%}, formula {max(map(abs, light)):.1%}.")
    print(f"\n{'Targets met.' if met else 'TARGETS MISSED.'}\n")
    return met


def print_choices() -> None:
    """Print peaks for the shape of Llama-3.1-8B on a GPU by choice of checkpointing, and what `auto` chooses."""
    rows = StepShape(count=16, length=1024, answer=256)
    print("### Checkpointing, Llama-3.1-8B shape, 4 × 1,024 tokens on a GPU, GiB\n")
    print("| method | layers | formula | dry run |")
    print("|---|---|---|---|")
    for method, choice in itertools.product(method_names(), (*RECOMPUTING, OFFLOADED)):
        values = {"train.micro_batch": 4, "train.gradient_checkpointing": choice.setting}
        config = resolve(Preset("choices", values), method).config
        light = formula(config, LLAMA_8B.to_dict(), "cuda", rows).training.total
        exact = dry_run(config, LLAMA_8B, published.GPU, rows).training.total
        words = describe_checkpointing(choice.setting)
        both = f"{light / 2**30:.2f} ({light / exact - 1:+.1%}) | {exact / 2**30:.2f}"
        print(f"| {method} | {words} | {both} |", flush=True)
    names = ("L4", "L40S", "A100 80GB", "B200")
    print(f"\nWhat `auto` chooses for a batch of 16 rows:\n\n| method | {' | '.join(names)} |\n|{'---|' * 5}")
    for method in method_names():
        config = resolve(Preset("choices", {}), method).config
        plans = (resolve_automatic(FitQuery(config, LLAMA_8B.to_dict(), rows, listed_budget(name))) for name in names)
        print(f"| {method} | {' | '.join(map(_choice, plans))} |", flush=True)
    print()


def _choice(plan: FitQuery) -> str:
    if not plan.fits_without_headroom():
        return "does not fit"
    train = plan.config.train
    assert train.gradient_checkpointing != "auto"
    return f"{describe_checkpointing(train.gradient_checkpointing)}, micro-batch {train.micro_batch}"


def print_catalog() -> None:
    """Print the formula's error against the dry run on a GPU for the smallest catalog model of each type."""
    print("### Catalog, 2 × 2,048 tokens on a GPU, GiB\n")
    print("| model | method | no layers checkpointed: dry run | formula | all layers: dry run | formula |")
    print("|---|---|---|---|---|---|")
    rows = StepShape(count=16, length=2048, answer=2047)
    errors = list[float]()
    for entry, method in itertools.product(smallest_by_type(), method_names()):
        cells = []
        for checkpointing in (False, True):
            values = {"train.micro_batch": 2, "train.gradient_checkpointing": checkpointing}
            config = resolve(Preset("catalog", values), method).config
            try:
                exact = dry_run(config, transformers.AutoConfig.for_model(**entry.shape), published.GPU, rows)
            except UserError as error:
                cells.append(f"{error.problem.partition(':')[0]} | –")
                continue
            light = formula(config, entry.shape, "cuda", rows)
            errors.append(light.training.total / exact.training.total - 1)
            cells.append(f"{exact.training.total / 2**30:.2f} | {errors[-1]:+.1%}")
        print(f"| {entry.name} | {method} | {' | '.join(cells)} |", flush=True)
    print(f"\nOf {len(errors)} peaks the formula is within 10% of {sum(abs(error) <= 0.1 for error in errors)}.\n")


def smallest_by_type() -> Iterable[CatalogEntry]:
    """The smallest catalog model of each of transformers' model types."""
    by_size = sorted(CATALOG.values(), key=lambda entry: -entry.parameters)
    return {entry.shape["model_type"]: entry for entry in by_size}.values()


def print_speed() -> None:
    """Print CPU seconds for the shape of Llama-3.1-8B, without imports."""
    print("### Speed, Llama-3.1-8B shape, one row of 1,024 tokens\n\n| method | dry run, CPU s | formula, CPU ms |")
    print("|---|---|---|")
    architecture, rows = LLAMA_8B, StepShape(count=16, length=1024, answer=256)
    for method in method_names():
        config = resolve(Preset("speed", {"train.micro_batch": 1}), method).config
        started = time.process_time()
        dry_run(config, architecture, published.GPU, rows)
        middle = time.process_time()
        formula(config, architecture.to_dict(), "cuda", rows)
        ended = time.process_time()
        print(f"| {method} | {middle - started:.1f} | {1000 * (ended - middle):.1f} |", flush=True)
    print()


if __name__ == "__main__":
    sys.exit(main())
