"""Writing and removing leaves files of the user and of other programs as they are."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config.errors import RunFailed, UserError
from engine.config.files import expanded, used_folder, write_atomically
from engine.config.preset_library import resolve_preset
from engine.export.exporter import _folder_in_progress
from engine.export.request import refuse_folder
from engine.runs import cleaning
from engine.runs.run import run_dir
from engine.runs.run.exports import FIDELITY, unfinished_folder
from engine.runs.run.folder import directories_with_file
from engine.runs.run.run_dir import RunDir
from tui.cli.export import export


def test_a_temporary_file_of_another_program_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / ".notes.txt.tmp").write_text("mine")
    (tmp_path / "victim").write_text("victim")
    (tmp_path / ".linked.txt.tmp").symlink_to("victim")
    for name in ("notes.txt", "linked.txt"):
        write_atomically(tmp_path / name, b"new")
        assert (tmp_path / name).read_text() == "new" and not (tmp_path / name).is_symlink()
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    assert (tmp_path / ".notes.txt.tmp").read_text() == "mine" and (tmp_path / "victim").read_text() == "victim"
    assert sorted(path.name for path in tmp_path.glob(".*.tmp")) == [".linked.txt.tmp", ".notes.txt.tmp"]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("appears", ["folder", "file"])
def test_what_appears_while_an_export_is_written_stays(appears: str, overwrite: bool, tmp_path: Path) -> None:
    final = tmp_path / "out"
    with pytest.raises(UserError) as refused, _folder_in_progress(RunDir(tmp_path / "run"), final, overwrite) as folder:
        (folder / FIDELITY).write_text("{}")
        mine = final / "thesis.tex" if appears == "folder" else final
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("years of work")
    assert refused.value.code == "export.not_an_export"
    assert mine.read_text() == "years of work" and list(tmp_path.glob(".*")) == []


def killed_export(final: Path) -> Path:
    """The temporary folder of an export to `final` whose process was killed."""
    code = (
        "import os, sys; from pathlib import Path; from engine.runs.run.exports import unfinished_folder\n"
        "with unfinished_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'model.safetensors').write_text('x'); print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(final)], capture_output=True, check=False)
    folder = Path(done.stdout.decode().strip())
    assert done.returncode == -signal.SIGKILL and folder.is_dir() and folder.parent == final.parent
    return folder


def test_an_export_removes_only_what_a_killed_one_to_the_same_place_left(tmp_path: Path) -> None:
    run, left = RunDir(tmp_path / "run"), killed_export(tmp_path / "out")
    kept = [tmp_path / name for name in (".out.tmp", ".out.17.tmp", ".other.ftbench.tmp", ".linked.ftbench.tmp")]
    for folder in kept[:3]:
        folder.mkdir()
        (folder / "model.safetensors").touch()
    kept[3].symlink_to(kept[0])
    with _folder_in_progress(run, tmp_path / "first", False):
        assert (left / "model.safetensors").exists()
    with _folder_in_progress(run, tmp_path / "out", True) as folder:
        assert folder == left and list(folder.iterdir()) == []
    with pytest.raises(FileExistsError), _folder_in_progress(run, tmp_path / "linked", True):
        pass
    assert all((folder / "model.safetensors").exists() for folder in kept)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RunFailed("SIGKILL", "engine.died")])
def test_the_command_removes_what_its_killed_export_left(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", None, {}))
    left = []

    def killed(*_: Any, **__: Any) -> None:
        left.append(killed_export(tmp_path / "out"))
        raise error

    monkeypatch.setattr("tui.cli.export.ask", killed)
    (tmp_path / "linked").symlink_to(tmp_path)
    with pytest.raises(type(error)):
        export(str(run.path), out=tmp_path / "linked" / "out")
    assert len(left) == 1 and not left[0].exists()


def test_an_export_to_a_folder_that_another_one_writes_is_refused(tmp_path: Path) -> None:
    with unfinished_folder(tmp_path / "out") as folder:
        (folder / "model.safetensors").touch()
        with pytest.raises(UserError) as refused, unfinished_folder(tmp_path / "out"):
            pass
        assert refused.value.code == "export.in_progress" and (folder / "model.safetensors").exists()
    assert folder.exists()  # it is the exporter that renames it


def test_a_folder_with_another_fidelity_file_is_not_an_export(tmp_path: Path) -> None:
    for content in (b"{}", b"[1]", msgspec.json.encode({"v": 1, "kind": "music"})):
        (tmp_path / FIDELITY).write_bytes(content)
        with pytest.raises(UserError) as refused:
            refuse_folder(tmp_path, overwrite=True)
        assert refused.value.code == "export.not_an_export"


def test_a_link_that_cannot_be_resolved_hides_no_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "long").symlink_to("x" * 300)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.toml").touch()
    assert list(directories_with_file(tmp_path, "run.toml")) == [tmp_path / "run"]


def test_a_path_of_an_unknown_user_is_refused() -> None:
    with pytest.raises(UserError) as refused:
        expanded("~no-such-user/rows.csv")
    assert refused.value.code == "file.unknown_user"
    assert expanded("~/rows.csv") == Path.home() / "rows.csv"


def test_a_run_that_is_read_is_not_removed(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    run = run_dir.create(runs, "demo-lora", resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)

    def item() -> cleaning.StoredItem:
        return next(stored_item for stored_item in cleaning.list_stored_items(runs) if stored_item.kind == "runs")

    free = item()
    with used_folder(run.path), used_folder(run.path):
        assert item().keep == cleaning.IN_USE and not cleaning.remove(free)
    assert item().keep == "" and cleaning.remove(item()) and not run.path.exists()
