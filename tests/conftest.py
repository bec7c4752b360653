"""Shared by all tests: an isolated environment for runs, caches, locks and configuration."""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from left_processes import end_processes_below, processes_below
from model_hub import Hub
from places import TESTS

from engine.assets import tiny_folder

SLOW = (
    "faults",
    "gpu",
    "tui/screens",
    "tui/widgets",
    "tui/test_palette.py",
    "tui/test_snapshots.py",
    "tui/cli/test_clean.py",
    "tui/cli/test_demo.py",
    "extensions/chat",
    "extensions/compare",
    "extensions/server_check",
    "tui/cli/test_monitor.py",
    "tui/cli/test_completion.py",
    "tui/cli/test_pull.py",
    "extensions/doctor/test_training_checks.py",
    "extensions/doctor/test_training_shapes.py",
    "extensions/doctor/test_method_checks.py",
    "extensions/trackers/test_trackers.py",
    "extensions/trackers/test_tracked_run.py",
    "engine/training",
    "engine/worker",
    "engine/methods",
    "engine/evaluation",
    "engine/export",
    "extensions/slurm/test_slurm.py",
    "engine/assets",
    "engine/memory/test_audit.py",
    "engine/memory/test_dry_run",
    "engine/memory/test_formula.py",
    "engine/memory/test_layer_extrapolation.py",
    "engine/memory/test_plan_question.py",
    "engine/memory/test_probe.py",
    "engine/memory/test_roofline.py",
    "engine/config/test_http_client.py",
    "engine/config/test_plugins.py",
    "engine/config/test_tested_families.py",
    "engine/hardware/test_nvml.py",
    "extensions/gguf",
    "extensions/judge/test_judge_process.py",
    "extensions/judge/test_judging.py",
    "extensions/judge/test_rating_screen.py",
    "engine/ladder/test_ladder.py",
    "extensions/benchmarks/test_ladder_benchmarks.py",
    "engine/ladder/test_ladder_verdict.py",
    "engine/ladder/test_page.py",
    "engine/ladder/test_peft_benchmark.py",
    "extensions/served",
    "engine/ladder/test_ship.py",
    "extensions/sweeps/test_sweep.py",
    "engine/ladder/test_disturbance.py",
    "engine/runs/run/test_long_log.py",
    "engine/runs/test_rpc.py",
    "engine/data/test_changed_rows.py",
    "engine/data/test_chat_template.py",
    "engine/data/test_fuzz.py",
    "engine/data/test_documented_files.py",
    "engine/data/test_items.py",
    "engine/data/test_patterns.py",
    "engine/data/test_small_data.py",
    "engine/data/test_trl.py",
)
"""Folders and files, by the start of their path, that load torch, start workers or many processes, or draw the
workbench. The others take little more than a minute on two cores: `pytest -m "not slow"`. Single tests that take
seconds have the mark."""

LONGEST = (
    "engine/export/test_export.py",
    "extensions/slurm/test_slurm.py",
    "faults/test_kill.py",
    "engine/worker/test_ranks.py",
    "engine/memory/test_layer_extrapolation.py",
    "tui/test_snapshots.py",
    "engine/ladder/test_ladder.py",
    "extensions/judge/test_judge_process.py",
    "faults/test_hostile_text.py",
    "engine/worker/test_worker.py",
    "faults/test_checkpoints.py",
    "faults/test_terminal.py",
    "extensions/doctor/test_training_checks.py",
    "engine/memory/test_dry_run.py",
    "engine/memory/test_plan_question.py",
    "engine/memory/test_dry_run_answers.py",
    "tui/cli/test_pull.py",
    "faults/test_command_line.py",
    "faults/test_result_of_killed_run.py",
    "extensions/sweeps/test_sweep.py",
    "faults/test_bench_story.py",
    "engine/memory/test_dry_run_presets.py",
    "engine/worker/test_continued_run.py",
    "extensions/benchmarks/test_benchmarks.py",
    "engine/training/test_compilation.py",
    "engine/training/test_ranks_losses.py",
    "engine/memory/test_dry_run_catalog.py",
    "engine/data/test_small_data.py",
    "engine/data/test_trl.py",
    "engine/worker/test_small_runs.py",
)
"""Files that take minutes come first, in this order, so that no process is left alone with one of them at the end."""

OWN_PREPARATIONS = (
    "engine/config",
    "engine/data",
    "engine/runs",
    "faults/test_links.py",
    "faults/test_irregular_files.py",
    "faults/test_files_of_others.py",
    "tui/cli/test_clean.py",
)
"""Folders and files, by the start of their path, of tests that examine the cache of prepared data or clean it."""

# Two workers with two threads each on two cores slow each other down by spinning; tests do not measure speed.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # else each of a thousand processes compiles our modules again
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"  # huggingface_hub reads it when it is imported, before the fixture below sets it
# A shell starts background jobs with these signals ignored, and children inherit that: tests that send them would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)
for ignorable in (signal.SIGQUIT, signal.SIGTSTP, signal.SIGHUP):
    signal.signal(ignorable, signal.SIG_DFL)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Import the tests without garbage collection, and leave what exists then out of all later ones.

    Half a million objects of torch and transformers stay: examining them takes a quarter of the CPU time of collecting
    the tests and of those that run in the process.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs unless `-m gpu` is given: importing bitsandbytes initializes CUDA, after which the forks of the fork
    server cannot use it, and several processes would share a GPU.
    """
    if not wants_gpu(config):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def wants_gpu(config: pytest.Config) -> bool:
    """Whether tests on a GPU are asked for, and nothing else."""
    marks: str = config.option.markexpr
    return marks.strip() == "gpu"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two processes more than there are CPUs: with one more, the CPUs were idle for a tenth of the time. Tests on a GPU
    run one at a time, without further processes.
    """
    return 0 if wants_gpu(config) else (os.cpu_count() or 1) + 2


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not even import the files below SLOW for `-m "not slow"`: torch and the libraries take seconds per process."""
    if config.option.markexpr == "not slow" and _place(collection_path).startswith(SLOW):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests below SLOW, and start with the longest ones."""
    for item in items:
        if _place(item.path).startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    order = {place: number for number, place in enumerate(LONGEST)}
    items.sort(key=lambda item: (order.get(_place(item.path), len(order)), "slow" not in item.keywords))


def _place(path: Path) -> str:
    """A path below `tests`; '' for others."""
    return path.relative_to(TESTS).as_posix() if path.is_relative_to(TESTS) else ""


@pytest.fixture(autouse=True)
def isolated_environment(
    request: pytest.FixtureRequest, isolated_fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of the user is read or written.

    Prepared data, which its content identifies, is that of all tests in this process: preparing the embedded dataset
    takes a second of CPU time, and hundreds of tests need it.
    """
    cache = isolate(tmp_path, monkeypatch) / "ftbench"
    if not _place(request.path).startswith(OWN_PREPARATIONS):
        cache.mkdir()
        (cache / "prepared").symlink_to(isolated_fixtures)


@pytest.fixture(scope="module", autouse=True)
def no_process_is_left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fail if a test has left a run or ladder, which would take CPU time from later tests for minutes."""
    yield
    folder = tmp_path_factory.getbasetemp()
    limit = time.monotonic() + 10  # those that were killed, or lost their parent, need a moment
    while left := processes_below(folder):
        if time.monotonic() > limit:
            end_processes_below(folder)
            pytest.fail(f"processes were left: {left}")
        time.sleep(0.05)


@pytest.fixture(scope="session", autouse=True)
def isolated_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same for fixtures that several tests share, which exist before `isolated_environment`: their runs would wait
    in the user's device queue, for each other and for runs that are not of the tests. Yields the folder of prepared
    data.
    """
    with pytest.MonkeyPatch.context() as patch:
        prepared = isolate(tmp_path_factory.mktemp("shared"), patch) / "ftbench" / "prepared"
        prepared.mkdir(parents=True)
        yield prepared


def isolate(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Set the environment for the time of `patch`; its files are in `folder`. Returns its folder of caches."""
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "FTBENCH_LOCKS", "HF_HOME"):
        of_name = folder / "world" / name.lower()
        of_name.mkdir(parents=True)
        patch.setenv(name, str(of_name))
    patch.setenv("FTBENCH_RUNS", str(folder / "runs"))
    patch.setenv("HF_HUB_OFFLINE", "1")
    patch.setenv("TERM", "xterm-256color")
    patch.setenv("COLORTERM", "truecolor")
    for name in ("HF_TOKEN", "NO_COLOR", "COLUMNS", "LINES", "COLORFGBG", "TMUX"):
        patch.delenv(name, raising=False)
    return folder / "world" / "xdg_cache_home"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with the embedded model, a large vocab.json, and weights in another format, as Mistral has."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "served"
    shutil.copytree(tiny_folder(), folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    (folder / "vocab.json").write_text(json.dumps({"a": 0}) + " " * (1 << 19))
    (folder / "consolidated.safetensors").write_bytes(bytes(1 << 20))
    with Hub(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
        server.shutdown()
