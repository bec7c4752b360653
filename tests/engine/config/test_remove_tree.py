"""Deletion does not follow symbolic links: only the link is deleted. Appended lines are complete."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from engine.config.files import appended_lines, remove_tree
from engine.config.preset_library import resolve_preset
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli.run import remove_refused


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A run in another folder, with a model."""
    run = run_dir.create(tmp_path / "elsewhere", "demo-lora", resolve_preset("demo-lora", None, {}))
    run.model.mkdir()
    (run.model / "weights").write_bytes(b"kept")
    return run.path


def content(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("delete", ["rundir", "ladder", "tree", "tree, errors ignored"])
def test_of_a_link_to_a_folder_only_the_link_is_deleted(delete: str, outside: Path, tmp_path: Path) -> None:
    before = content(outside)
    link = tmp_path / "runs" / outside.name
    link.parent.mkdir()
    link.symlink_to(outside)
    match delete:
        case "rundir":
            run_dir.delete(RunDir(link))
        case "ladder":
            LadderDir(link).remove()
        case _:
            remove_tree(link, ignore_errors="ignored" in delete)
    assert not link.is_symlink() and content(outside) == before


def test_links_inside_are_not_followed(outside: Path, tmp_path: Path) -> None:
    before = content(outside)
    run = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    run.checkpoints.symlink_to(outside)
    (run.path / "file").symlink_to(outside / "run.toml")
    run_dir.delete(run)
    assert not run.path.exists() and content(outside) == before


def test_a_refused_run_that_is_a_link_is_left(outside: Path, tmp_path: Path) -> None:
    (outside / "model" / "weights").unlink()
    (outside / "model").rmdir()
    before = content(outside)
    link = tmp_path / "link"
    link.symlink_to(outside)
    remove_refused(RunDir(link))
    assert content(outside) == before


def test_files_and_nothing_at_all_are_deleted_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    remove_tree(tmp_path / "file")
    remove_tree(tmp_path / "file")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    remove_tree(tmp_path / "dangling")
    assert list(tmp_path.iterdir()) == [] or not (tmp_path / "dangling").is_symlink()


def test_a_ladder_that_never_started_is_deleted_completely(tmp_path: Path) -> None:
    folder = ladder_dir.create(tmp_path / "runs", make_plan("demo", ["lora"], {}))
    folder.remove()
    assert not folder.path.exists()


def test_a_line_is_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    """On a disk with room for a part of the line, and in a file whose last line a killed process left incomplete."""
    file = tmp_path / "lines.jsonl"
    file.write_bytes(b"first\n" + b"x" * (3 << 20))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with appended_lines(file) as append:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
        try:
            with pytest.raises(OSError, match="File too large"):
                append(b"second line\n")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        append(b"third\n")
    assert file.read_bytes() == b"first\nthird\n"
