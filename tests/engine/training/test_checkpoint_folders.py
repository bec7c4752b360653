"""A damaged or unusual checkpoint folder is incomplete: an older checkpoint is used, and nothing raises."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.training import checkpoints
from engine.training.checkpoints import REQUIRED, WeightSelection, latest_complete, problem_with, rotate

FILES = (*REQUIRED, "adapter_model.safetensors")


def save(folder: Path, step: int) -> Path:
    with checkpoints.writing(folder, step) as saving:
        for name in FILES:
            (saving.folder / name).write_bytes(f"{name} of step {step}".encode() * 20)
    return saving.done.folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Complete checkpoints of steps 2 and 4."""
    for step in (2, 4):
        save(tmp_path / "checkpoints", step)
    return tmp_path / "checkpoints"


def manifest(newest: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    table = json.loads((newest / "manifest.json").read_text())
    change(table)
    (newest / "manifest.json").write_text(json.dumps(table))


def emptied(newest: Path) -> None:
    for path in newest.iterdir():
        path.unlink()


def replaced_by_link(newest: Path) -> None:
    newest.rename(newest.with_name("elsewhere"))
    newest.symlink_to(newest.with_name("elsewhere"))


def file_linked(newest: Path) -> None:
    path = newest / "optimizer.pt"
    path.rename(newest.parent / "elsewhere")
    path.symlink_to(newest.parent / "elsewhere")


def file_is_pipe(newest: Path) -> None:
    (newest / "optimizer.pt").unlink()
    os.mkfifo(newest / "optimizer.pt")


def manifest_is_pipe(newest: Path) -> None:
    (newest / "manifest.json").unlink()
    os.mkfifo(newest / "manifest.json")


def without_optimizer(newest: Path) -> None:
    (newest / "optimizer.pt").unlink()
    manifest(newest, lambda table: table["files"].pop("optimizer.pt"))


def outside(newest: Path) -> None:
    (newest.parent / "stray").write_bytes(b"x")
    manifest(newest, lambda table: table["files"].update({"../stray": {"bytes": 1, "sha256": "0"}}))


def of_another_step(newest: Path) -> None:
    shutil.rmtree(newest)
    shutil.copytree(newest.with_name("step-2"), newest)


def text(content: str | bytes) -> Callable[[Path], None]:
    def write(newest: Path) -> None:
        (newest / "manifest.json").write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


ODD: dict[str, Callable[[Path], object]] = {
    "deeply nested": text("[" * 100_000 + "]" * 100_000),
    "deeply nested in a field": text('{"step": 4, "files": ' + '{"a": ' * 50_000 + "1" + "}" * 50_000 + "}"),
    "no files": lambda newest: manifest(newest, lambda table: table.update(files={})),
    "files is a list": lambda newest: manifest(newest, lambda table: table.update(files=[])),
    "facts are null": lambda newest: manifest(newest, lambda table: table["files"].update({"optimizer.pt": None})),
    "negative size": lambda newest: manifest(newest, lambda table: table["files"]["optimizer.pt"].update(bytes=-1)),
    "huge number": text('{"step": ' + "9" * 5000 + ', "files": {}}'),
    "not UTF-8": text(b'{"step": 4, "files": {"\xff\xfe": 1}}'),
    "a surrogate": text('{"step": 4, "files": {"\\ud800": {"bytes": 1, "sha256": ""}}}'),
    "a NUL in a name": text('{"step": 4, "files": {"a\\u0000b": {"bytes": 1, "sha256": ""}}}'),
    "a long name": text(json.dumps({"step": 4, "files": {"x" * 5000: {"bytes": 1, "sha256": ""}}})),
    "empty manifest": text(""),
    "half a manifest": text('{"step": '),
    "zeros": text(b"\0" * 4096),
    "another step": of_another_step,
    "all files gone": emptied,
    "a missing file": lambda newest: (newest / "optimizer.pt").unlink(),
    "no optimizer": without_optimizer,
    "an extra file": lambda newest: (newest / "pytorch_model.bin").write_bytes(b"pickle"),
    "an extra folder": lambda newest: ((newest / "deep").mkdir(), (newest / "deep" / "file").write_bytes(b"")),
    "a name outside": outside,
    "a link to a folder": replaced_by_link,
    "a link to a file": file_linked,
    "a pipe": file_is_pipe,
    "a pipe as manifest": manifest_is_pipe,
    "a directory as manifest": lambda newest: ((newest / "manifest.json").unlink(), (newest / "manifest.json").mkdir()),
    "a file": lambda newest: (shutil.rmtree(newest), newest.write_bytes(b"")),
    "a truncated file": lambda newest: os.truncate(newest / "scheduler.pt", 3),
}


@pytest.mark.parametrize("name", ODD)
def test_a_damaged_latest_checkpoint_is_reported_and_an_older_one_is_used(name: str, folder: Path) -> None:
    ODD[name](folder / "step-4")
    checkpoint, complaints = latest_complete(folder)
    assert checkpoint is not None and checkpoint.step == 2
    (complaint,) = complaints
    assert "incomplete checkpoint step-4" in complaint


@pytest.mark.parametrize("name", ["step-²", "step-٣", "step-", "step--1", "step-04", "step-1e3", "step-4 ", "stepp-9"])
def test_folders_with_other_names_are_ignored(name: str, folder: Path) -> None:
    shutil.copytree(folder / "step-4", folder / name)
    checkpoint, complaints = latest_complete(folder)
    assert checkpoint is not None and (checkpoint.step, complaints) == (4, [])
    rotate(folder, 1, 4)
    assert (folder / name).exists()


def test_random_damage_never_raises_and_never_counts_as_complete(folder: Path) -> None:
    chance, newest = random.Random(3), folder / "step-4"
    before = {path.name: path.read_bytes() for path in newest.iterdir()}
    for _ in range(200):
        name = chance.choice(sorted(before))
        content = bytearray(before[name])
        for _ in range(chance.choice([1, 5])):
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        (newest / name).write_bytes(content[: chance.choice([len(content), chance.randrange(len(content))])])
        whole = {path.name: path.read_bytes() for path in newest.iterdir()} == before
        wrong = problem_with(newest)
        same = name == "manifest.json" and wrong is None  # a changed space between its tokens
        assert whole or wrong is not None or same
        (newest / name).write_bytes(before[name])
    assert problem_with(newest) is None


def test_rotation_never_leaves_only_an_incomplete_later_checkpoint(folder: Path) -> None:
    save(folder, 8)
    (folder / "step-8" / "optimizer.pt").write_bytes(b"")
    save(folder, 6)  # the run resumed from step 4
    rotate(folder, 1, 6)
    checkpoint, complaints = latest_complete(folder)
    assert checkpoint is not None and (checkpoint.step, complaints) == (6, [])
    assert [path.name for path in folder.iterdir()] == ["step-6"]


def test_rotation_keeps_the_best_weights_of_every_checkpoint_that_a_run_can_resume_from(tmp_path: Path) -> None:
    chance, selection = random.Random(1), WeightSelection(best=True)
    for number in range(30):
        folder = tmp_path / str(number)
        folder.mkdir()
        losses = [(step, chance.choice([1.0, 2.0, math.nan, chance.random()])) for step in range(1, 13)]
        keep = chance.choice([1, 2, 3])
        for step, _ in losses:
            if step % 3 == 0 or selection.best_step(losses, step) == step:
                save(folder, step)
                rotate(folder, keep, step, lambda step, losses=losses: selection.best_step(losses, step))
            steps = sorted(int(path.name.removeprefix("step-")) for path in folder.iterdir())
            assert len(steps) <= keep + 1
            for kept in steps[-keep:]:
                assert selection.best_step(losses, kept) in (*steps, None)


@pytest.mark.parametrize(
    ("losses", "best", "ended"),
    [
        ([], None, False),
        ([3.0, 2.0, 2.0], 2, False),
        ([3.0, 2.0, 2.0, 2.5], 2, True),
        ([3.0, 4.0, 2.0, 4.0], 3, False),
        ([math.nan, math.nan], None, True),
        ([math.nan, 5.0, math.inf], 2, False),
    ],
)
def test_the_first_lowest_loss_is_selected_and_patience_counts_validations_since(
    losses: list[float], best: int | None, ended: bool
) -> None:
    steps = list(enumerate(losses, 1))
    assert WeightSelection(best=True, patience=2).best_step(steps) == best
    assert WeightSelection(best=True, patience=2).ends(steps) is ended
    assert WeightSelection(patience=2).best_step(steps) is None and not WeightSelection(best=True).ends(steps)


def test_rotation_and_saving_remove_links_and_not_their_targets(folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.copytree(folder / "step-4", kept)
    for name in ("step-1", "step-6", ".writing-8"):
        (folder / name).symlink_to(kept)
    save(folder, 6)
    rotate(folder, 1, 6)
    checkpoints.clear_unfinished(folder)
    save(folder, 8)
    assert sorted(path.name for path in kept.iterdir()) == sorted([*FILES, "manifest.json"])
    assert not (folder / "step-1").is_symlink() and not (folder / "step-6").is_symlink()
