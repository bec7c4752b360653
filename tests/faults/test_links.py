"""Symbolic links in the directories of runs: whatever a subcommand does, what the links point to stays as it is."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from forked import ftbench
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import write_events

from engine.__main__ import main as worker
from engine.config.errors import RunFailed, UserError
from engine.config.home import cache_folder
from engine.config.preset_library import resolve_preset
from engine.export.exporter import export
from engine.export.request import ExportRequest
from engine.extensions.sweeps.sweep import Axis
from engine.extensions.sweeps.sweep_dir import SweepDir, create_sweep
from engine.extensions.trackers.trackers import start_tracker
from engine.ladder.__main__ import main as ladder_process
from engine.runs import cleaning, start
from engine.runs.cleaning import KINDS
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.run import folder, run_dir
from engine.runs.run.exports import FIDELITY, Fidelity, remove_unfinished
from engine.runs.run.run_dir import RunDir, blank_result, read_frozen, write_result
from engine.training import checkpoints
from tui.cli.disk import clean

DOCUMENTS = Path("documents")
STATE = (
    *("optimizer.pt", "rng_state.pth", "scheduler.pt", "trainer_state.json", "model.safetensors"),
    *("model/adapter_model.safetensors", "exports/merged/model.safetensors", "tracking/wandb.json"),
)


def made_run(home: Path, status: str) -> RunDir:
    """A run with two checkpoints, a model, an export, a log and a result."""
    run = run_dir.create(home, "demo-lora", resolve_preset("demo-lora", "lora", {}))
    for name in ("model", "checkpoints", "exports/merged", "exports/.gguf.1.tmp", "tracking", "benchmarks"):
        (run.path / name).mkdir(parents=True)
    for name in ("model/adapter_model.safetensors", "exports/merged/model.safetensors", "engine.log", "engine.lock"):
        (run.path / name).write_bytes(b"of the run")
    for step in (1, 2):
        with checkpoints.writing(run.checkpoints, step) as saving:
            for name in (*checkpoints.REQUIRED, "model.safetensors"):
                (saving.folder / name).write_bytes(b"state")
    write_events(run, "lora", 0)
    check = Fidelity(
        run=run.name, kind="merged", type="bf16", model="tiny", metric="loss", device="cpu", margin=1, outcome="pass"
    )
    (run.path / "exports" / "merged" / FIDELITY).write_bytes(msgspec.json.encode(check))
    result = blank_result(run, read_frozen(run))
    result.status = status  # type: ignore[assignment]
    write_result(run, result)
    return run


def made_home(home: Path) -> None:
    """Runs, a ladder with a probe, and a sweep; a copy of a finished run is among the documents outside."""
    for status in ("finished", "stopped", "failed"):
        made_run(home, status)
    ladder = ladder_dir.create(home, make_plan("demo", ["lora"], {}))
    made_run(ladder.probes, "finished")
    create_sweep(home, [Axis(key="adapter.rank", values=[4])], [({"adapter.rank": 4}, ladder.plan())])


def content(root: Path) -> dict[str, bytes]:
    """Every path below a folder, with what is in it."""
    return {
        str(path.relative_to(root)): os.fsencode(path.readlink())
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else b""
        for path in sorted(root.rglob("*"))
    }


def entries(home: Path) -> list[str]:
    """Every path of a home that a link can replace, by its number among the runs so that names do not matter."""
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


def remove_everything(home: Path) -> None:
    """`ftbench clean` of each kind, and of all of them, for everything of any age."""
    for kind in (*([kind] for kind in KINDS), list(KINDS)):
        clean(list(kind), older_than=0.0, yes=True, runs=home, json=True)


def runs_of(home: Path) -> list[RunDir]:
    probes = [run for ladder in LadderDir.iterate(home) for run in RunDir.iterate(ladder.probes)]
    return [*RunDir.iterate(home), *probes]


def each_run(act: Callable[[RunDir], object]) -> Callable[[Path], None]:
    def act_on_all(home: Path) -> None:
        for run in runs_of(home):
            with contextlib.suppress(UserError, RunFailed, OSError):
                act(run)

    return act_on_all


def rotate(run: RunDir) -> None:
    """What a worker does with its checkpoints: delete unfinished ones, write one, delete old ones."""
    checkpoints.clear_unfinished(run.checkpoints)
    checkpoints.rotate(run.checkpoints, 1, 2)
    with checkpoints.writing(run.checkpoints, 2) as saving:
        (saving.folder / "model.safetensors").write_bytes(b"new")


def write_model(run: RunDir) -> None:
    with checkpoints.folder_atomically(run.path / ".model.tmp", run.model) as temporary:
        (temporary / "model.safetensors").write_bytes(b"new")


def has_links(run: Path) -> bool:
    return run.is_symlink() or any(path.is_symlink() for path in run.rglob("*"))


def work(run: RunDir) -> None:
    """The worker itself, and the ways to it, where the run has a link; without one it would train."""
    if has_links(run.path):
        assert worker([str(run.path)]) in (1, 2)
        for begin in (
            start.resume_run,
            start.start_worker,
            start.pause,
            lambda run_directory: start_tracker(run_directory, "tensorboard"),
        ):
            with contextlib.suppress(UserError, RunFailed):
                begin(run)


def compare(home: Path) -> None:
    """The process of a ladder or sweep, where its directory has a link."""
    for directory in (*LadderDir.iterate(home), *SweepDir.iterate(home)):
        if has_links(directory.path):
            assert ladder_process([str(directory.path)]) in (1, 2)


def export_again(run: RunDir) -> None:
    if has_links(run.path):
        export(ExportRequest(run, "merged", None, None, 0.1, overwrite=True), lambda *said: None)
    remove_unfinished(run)


def remove_temporary(home: Path) -> None:
    """`ftbench clean temporary` an hour later."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cleaning, "RECENT_SECONDS", -1.0)
        clean(["temporary"], yes=True, runs=home, json=True)


ACTIONS: dict[str, Callable[[Path], object]] = {
    "clean": remove_everything,
    "delete": each_run(run_dir.delete),
    "rotate": each_run(rotate),
    "save the model": each_run(write_model),
    "resume": each_run(work),
    "ladder": compare,
    "export": each_run(export_again),
    "clean temporary": remove_temporary,
    "delete ladders": lambda home: [directory.remove() for directory in LadderDir.iterate(home)],
}
TARGETS = ("documents", "documents/file", "same", "run", "nowhere")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template") / "runs"
    made_home(home)
    return home


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of this test need not survive a crash, and the disk is busy."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.mark.usefixtures("unflushed")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nothing_outside_changes_whichever_entries_are_links(data: st.DataObject, template: Path) -> None:
    """Each link points to a folder, to a file, to a copy of what it replaces, to another run, or to nothing."""
    known = entries(template)
    levels = {depth: [name for name in known if name.count("/") == depth] for depth in range(4)}
    link = st.integers(0, 3).flatmap(lambda depth: st.sampled_from(levels[depth]))
    chosen = data.draw(st.lists(st.tuples(link, st.sampled_from(TARGETS)), min_size=1, max_size=4))
    action = data.draw(st.sampled_from(sorted(ACTIONS)))
    root = template.parent / "try"
    home, outside = root / "runs", root / "outside"
    shutil.copytree(template, home)
    try:
        place(chosen, home, outside)
        before = content(outside)
        ACTIONS[action](home)
        assert content(outside) == before
    finally:
        shutil.rmtree(root)


def place(chosen: Sequence[tuple[str, str]], home: Path, outside: Path) -> None:
    """Replace entries of a home by links to folders and files outside of it."""
    (outside / "documents" / ".old.1.tmp").mkdir(parents=True)
    for name in ("file", "step-1/manifest.json", "merged/letter.txt", ".old.1.tmp/x", "step-9/manifest.json"):
        (outside / "documents" / name).parent.mkdir(exist_ok=True)
        (outside / "documents" / name).write_text("precious")
    shutil.copytree(next(run.path for run in RunDir.iterate(home)), outside / "run")
    for number, (name, target) in enumerate(chosen):
        path = home / name
        copy = outside / "same" / str(number)
        if not path.parent.is_dir() or path.parent.resolve() != path.parent or path.is_symlink():
            continue  # below another link
        if target == "same":
            copy.parent.mkdir(exist_ok=True)
            path.rename(copy)
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
        path.symlink_to(copy if target == "same" else outside / target)


def test_clean_exports_keeps_what_a_linked_exports_folder_points_to(tmp_path: Path) -> None:
    """As a user does it: the whole command, for every level of the link."""
    for level in ("exports", "exports/merged", "."):
        home, documents = tmp_path / level.replace("/", "-") / "runs", tmp_path / level.replace("/", "-") / "documents"
        run = made_run(home, "finished")
        (documents / "merged").mkdir(parents=True)
        (documents / "merged" / "letter.txt").write_text("precious")
        path = run.path / level
        path.rename(home.parent / "moved")
        (run.path / level).symlink_to(home.parent / "moved" if level == "." else documents)
        before = content(documents) | content(home.parent / "moved")
        for kind in ("exports", "checkpoints", "runs"):
            done = ftbench("clean", kind, "--older-than", "0", "--yes", "--runs", str(home))
            assert done.returncode == 0, done.stderr
            assert content(documents) | content(home.parent / "moved") == before


def test_a_run_with_a_link_is_refused_in_one_line_by_what_writes_to_it(tmp_path: Path) -> None:
    run = made_run(tmp_path / "runs", "stopped")
    run.checkpoints.rename(tmp_path / "elsewhere")
    run.checkpoints.symlink_to(tmp_path / "elsewhere")
    for arguments in (["resume", run.name], ["export", run.name]):
        done = ftbench(*arguments, "--runs", str(run.path.parent))
        assert done.returncode == 2 and "symbolic link" in done.stderr and str(run.checkpoints) in done.stderr
        assert done.stderr.count("\n") <= 2, done.stderr


def test_a_run_is_found_below_a_linked_directory_and_its_own_link_is_not_followed(tmp_path: Path) -> None:
    """What is above the runs home belongs to the user: links there are resolved and allowed."""
    run = made_run(tmp_path / "disk" / "runs", "finished")
    (tmp_path / "home").symlink_to("disk")
    (run.path.parent / "mine").symlink_to(run.path)
    assert RunDir.find(tmp_path, str(tmp_path / "home" / "runs" / run.name)).path == run.path
    assert RunDir.find(tmp_path, str(tmp_path / "home" / "runs" / "mine")).path == run.path.parent / "mine"
    assert folder.real_path(Path("/")) == Path("/")
    done = ftbench("clean", "exports", "--yes", "--runs", str(tmp_path / "home" / "runs"))
    assert done.returncode == 0 and not any((run.path / "exports").glob("[!.]*"))


def test_caches_below_a_linked_folder_are_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to("disk")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    entry = cache_folder() / "prepared" / "0123"
    entry.mkdir(parents=True)
    assert entry.is_relative_to(tmp_path / "disk")
    assert ftbench("clean", "prepared", "--yes").returncode == 0 and not entry.exists()
