"""Every shipped preset is planned by the formula, as is what presets and catalog say about GPU sizes."""

from __future__ import annotations

import re
from functools import cache

import pytest
from gpu_sizes import FITS_BY_DRY_RUN, TIGHT_BY_DRY_RUN, sizes, smallest_of
from places import DOCS

from engine.config.catalog import CATALOG, CatalogEntry
from engine.config.device_defaults import describe_checkpointing
from engine.config.method_specs import TrainedRung, lora_notices, method_names, method_specs, method_title
from engine.config.model_files import find_model
from engine.config.preset import Preset, resolve
from engine.config.preset_library import GPU_LIST, resolve_preset, shipped_folder
from engine.config.schema import Config
from engine.memory.formula.automatic import resolve_automatic
from engine.memory.formula.estimate import MemoryEstimate
from engine.memory.formula.fit import Fit, FitQuery, classify_fit
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import planned_rows, positions_of

GIB = 1 << 30
LAPTOP = MemoryBudget(name="2 CPU cores", device="cpu", source="system", total=8 * GIB)
HUB_SHAPES = {"meta-llama/Llama-3.2-3B": "llama-3.2-3b"}
"""A base model -> the catalog model of the same shape."""
PLANNED: dict[str, tuple[int, Fit, str]] = {
    "24gb-qlora": (24, "fits", "off"),
    "24gb-lora": (24, "fits", "all layers"),
    "24gb-full": (24, "fits", "all layers, offloaded"),
    "48gb-qlora": (48, "fits", "off"),
    "48gb-lora": (48, "fits", "all layers"),
    "48gb-full": (48, "fits", "all layers, offloaded"),
    "80gb-qlora": (80, "fits", "off"),
    "80gb-lora": (80, "fits", "off"),
    "80gb-full": (80, "fits", "off"),
    "qwen2.5-7b-24gb-qlora": (24, "fits", "1 in 2 layers"),
    "qwen2.5-7b-qlora": (80, "fits", "off"),
    "qwen2.5-7b-lora": (80, "fits", "off"),
    "qwen2.5-7b-full": (80, "fits", "off"),
    "peft-benchmark": (48, "fits", "off"),
    **{f"demo{kind}": (0, "fits", "off") for kind in ("", "-qlora", "-lora", "-full", "-schema")},
    **{f"smollm2-{method}": (0, "fits", "off") for method in method_names()},
}
"""Preset -> GPU size in GB (0: a CPU), fit, activation checkpointing. The formula says `tight` where
its error could hide too little memory; the dry run, which is more accurate, says `fits` (`test_dry_run_presets`)."""
METHODS = {spec.in_text: name for name, spec in method_specs().items()}


def budget_of(size: int) -> MemoryBudget:
    return smallest_of(size) if size else LAPTOP


def estimate(config: Config, size: int) -> MemoryEstimate:
    """The formula's estimate for rows of maximum length, with what the plan chooses for `auto`."""
    table = find_model(config.model).table or CATALOG[HUB_SHAPES[config.model.id]].shape
    rows = planned_rows(config, positions_of(table))
    return resolve_automatic(FitQuery(config, table, rows, budget_of(size))).formula_estimate()


def planned(config: Config, size: int) -> tuple[Fit, str]:
    """Fit and activation checkpointing by the formula."""
    estimated = estimate(config, size)
    return classify_fit(estimated.peak, budget_of(size), "formula"), describe_checkpointing(
        estimated.gradient_checkpointing
    )


@cache
def catalog_fit(model: str, method: str, size: int, batch: int = 16) -> Fit:
    """Whether a catalog model fits with rows of 2,048 tokens on a GPU of this size."""
    values = {"model.id": model, "train.max_length": 2048, "train.batch": batch}
    return planned(resolve(Preset("test", values), method).config, size)[0]


def decided_fit(model: str, method: str, size: int) -> Fit:
    """The same, with what the formula calls tight decided by a dry run (`test_dry_run_presets`)."""
    fit = catalog_fit(model, method, size)
    if fit == "tight":
        assert ((model, method, size) in FITS_BY_DRY_RUN) != ((model, method, size) in TIGHT_BY_DRY_RUN)
        return "fits" if (model, method, size) in FITS_BY_DRY_RUN else "tight"
    return fit


@pytest.mark.parametrize("name", sorted({path.stem for path in shipped_folder().glob("*.toml")} - {GPU_LIST}))
def test_every_preset_fits_where_its_name_says(name: str) -> None:
    size, *expected = PLANNED[name]
    config = resolve_preset(name, None, {}).config
    assert [*planned(config, size)] == expected
    named = re.findall(r"(\d+)gb|(\d+) GB", f"{name} {config.title}")
    assert {int(in_name or in_title) for in_name, in_title in named} <= {size}


@pytest.mark.parametrize("size", [24, 48, 80])
def test_the_presets_of_a_gpu_size_are_one_ladder(size: int) -> None:
    """One model, all methods, the same data and batch, and rates that suit each method."""
    configs = {method: resolve_preset(f"{size}gb-{method}", None, {}).config for method in method_names()}
    for method, config in configs.items():
        assert config.method == method
        assert resolve_preset(f"{size}gb-lora", method, {}).config.train == config.train
    assert len({config.model for config in configs.values()}) == 1
    assert lora_notices({method: TrainedRung.of(config) for method, config in configs.items()}) == []


@pytest.mark.parametrize("name", [name for name in PLANNED if re.match(r"\d+gb-", name)])
def test_the_largest_model_that_a_preset_names_fits(name: str) -> None:
    config = resolve_preset(name, None, {}).config
    size = PLANNED[name][0]
    by_size = sorted(CATALOG, key=lambda model: CATALOG[model].parameters)
    match = re.search(r"models up to (\S+) fit", config.about)
    largest = match[1] if match else by_size[-1]
    fits = [model for model in by_size if catalog_fit(model, config.method, size, config.train.batch) == "fits"]
    assert fits[-1] == largest
    assert match or "every model" in config.about


@pytest.mark.parametrize("size", [24, 48])
def test_full_fine_tuning_of_the_smaller_sizes_needs_steps_in_the_backward_pass(size: int) -> None:
    """The reason for their batch sizes, and for what their titles say."""
    config = resolve_preset(f"{size}gb-full", None, {}).config
    table = find_model(config.model).table
    assert table
    query = FitQuery(config, table, planned_rows(config, positions_of(table)), budget_of(size))
    assert resolve_automatic(query).config.optimizer.step_in_backward is True and "backward pass" in config.about
    ordinary = query.with_settings({"optimizer.step_in_backward": False})
    assert not resolve_automatic(ordinary).fits_without_headroom()


@pytest.mark.parametrize("entry", CATALOG.values(), ids=lambda entry: entry.name)
def test_the_catalog_names_the_smallest_gpu_of_each_method(entry: CatalogEntry) -> None:
    claims = {METHODS[method]: int(size) for method, size in re.findall(r"(\w+) on (\d+)", entry.about)}
    assert claims or (entry.name == "smollm2-135m" and "CPU" in entry.about)
    for method, size in claims.items():
        smaller = [gpu_size for gpu_size in sizes() if gpu_size < size]
        fits = [decided_fit(entry.name, method, gpu_size) for gpu_size in (*smaller[-1:], size)]
        assert fits[-1] == "fits" and "fits" not in fits[:-1], method_title(method)


def test_the_peaks_in_the_documentation_are_those_of_the_plan() -> None:
    documented = re.findall(
        r"^\| `(\S+)` \| .* \| ([\d.]+) GiB \| \d+ \| (.+) \|$", (DOCS / "plan.md").read_text(), re.M
    )
    assert [name for name, _, _ in documented] == [name for name in PLANNED if re.match(r"\d+gb", name)]
    for name, peak, checkpointing in documented:
        size, _, expected = PLANNED[name]
        assert checkpointing == expected
        assert estimate(resolve_preset(name, None, {}).config, size).peak / GIB == pytest.approx(
            float(peak), rel=0.05
        ), name
