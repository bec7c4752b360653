"""The runs home: where it is, when it is refused, and the file systems that it warns of."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from engine.config import preset_library
from engine.config.errors import RunFailed, UserError
from engine.config.home import config_file
from engine.runs import home
from engine.runs.queue import locks
from engine.runs.run import folder, run_dir
from engine.runs.run.run_dir import RunDir

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The user's config.toml, where $FTBENCH_RUNS is not set."""
    monkeypatch.delenv("FTBENCH_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    path = config_file()
    path.parent.mkdir(parents=True)
    return path


def create(runs: Path) -> run_dir.RunDir:
    return run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))


def test_the_option_precedes_the_variable_and_that_the_config_and_that_the_default(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert home.runs_home() == tmp_path / "data" / "ftbench" / "runs"
    config.write_text(f'theme = "dracula"\nhome = "{tmp_path}/configured"\n')
    assert home.runs_home() == tmp_path / "configured" / "runs"
    monkeypatch.setenv("FTBENCH_RUNS", str(tmp_path / "variable"))
    assert home.runs_home() == tmp_path / "variable"
    assert home.runs_home(tmp_path / "option") == tmp_path / "option"


def test_a_home_below_the_users_own_directory(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config.write_text('home = "~/lab"\n')
    assert home.runs_home() == tmp_path / "lab" / "runs"
    assert (home.tilde(tmp_path / "lab"), home.tilde(tmp_path), home.tilde(f"{tmp_path}er")) == (
        "~/lab",
        "~",
        f"{tmp_path}er",
    )


def test_a_symbolic_link_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert home.runs_home(tmp_path / "link") == home.runs_home(tmp_path / "x" / ".." / "real") == tmp_path / "real"


@pytest.mark.parametrize("value", ['"relative"', '""', "3", '"~nobody-of-this-name/runs"', "{ x = 1 }", '"/a\\u0000b"'])
def test_an_invalid_home_is_refused(value: str, config: Path) -> None:
    config.write_text(f"home = {value}\n")
    with pytest.raises(UserError) as error:
        home.runs_home()
    assert (error.value.code, error.value.location) == ("home.invalid", str(config))


def test_a_broken_config_is_refused_only_where_it_may_set_the_home(config: Path, tmp_path: Path) -> None:
    config.write_text("theme = \n")
    assert home.runs_home() == tmp_path / "data" / "ftbench" / "runs"
    config.write_text('theme = \nhome = "/data/runs"\n')
    with pytest.raises(UserError) as error:
        home.runs_home()
    assert error.value.code == "home.invalid"


def test_a_home_that_is_a_file_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for runs in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError) as error:
            create(runs)
        assert error.value.code == "runs.not_writable" and error.value.exit_code == 2
    assert [path.name for path in tmp_path.iterdir() if path.name != "world"] == ["file"]


def test_a_read_only_home_is_refused_and_nothing_is_created(tmp_path: Path) -> None:
    """Mounted read-only: that refuses root as well."""
    runs = tmp_path / "read-only"
    runs.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(runs)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        for path in (runs, runs / "below"):
            with pytest.raises(UserError) as error:
                create(path)
            assert error.value.code == "runs.not_writable" and "--runs" in error.value.hint
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_a_full_disk_is_refused_with_the_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 300 << 10))
    with pytest.raises(UserError) as error:
        create(tmp_path / "runs")
    assert error.value.code == "runs.disk_full" and "300 KiB" in error.value.problem
    assert not (tmp_path / "runs").exists()


def test_a_disk_that_fills_up_while_a_run_is_created_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(RunFailed, match="free some space"):
        create(tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


MOUNTS = r"""22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 27 0:40 / /home rw,relatime shared:2 - nfs4 server:/export/home rw,vers=4.2
31 30 0:41 / /home/me/local\040disk rw - xfs /dev/vdb rw
32 27 0:42 / /scratch rw - lustre 10.0.0.1@tcp:/scratch rw
33 27 0:43 / /remote rw - fuse.sshfs me@host:/ rw
34 27 0:44 / /zip rw - fuse.archivemount x rw
35 27 0:45 / /twice rw - ext4 /dev/vdc rw
36 27 0:46 / /twice rw - cifs //server/share rw
damaged line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/runs", "nfs4"),
        ("/home", "nfs4"),
        ("/homework", ""),
        ("/home/me/local disk/runs", ""),
        ("/scratch/runs", "lustre"),
        ("/remote/runs", "fuse.sshfs"),
        ("/zip/runs", ""),
        ("/twice/runs", "cifs"),
        ("/var/lib", ""),
    ],
)
def test_a_network_file_system_is_known_by_its_mount(
    path: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mounts").write_text(MOUNTS)
    monkeypatch.setattr(home, "MOUNTS", tmp_path / "mounts")
    assert home.network_file_system(Path(path)) == kind
    notices = home.home_warnings(Path(path))
    assert [notice.code for notice in notices] == (["runs.network_filesystem"] if kind else [])
    assert all(kind in notice.text for notice in notices)


def test_a_home_on_the_disk_of_a_container_is_warned_of_unless_it_was_chosen(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest writable disk is proposed: on a rented machine only a volume outlives a stop."""
    workspace = tmp_path / "work space"
    workspace.mkdir()
    escaped = str(workspace).replace(" ", "\\040")
    (tmp_path / "mounts").write_text(
        f"1 0 0:1 / / rw - overlay overlay rw\n2 1 0:2 / {escaped} rw - xfs /dev/vdb rw\n"
        "3 1 0:3 / /etc/hosts rw - ext4 /dev/vda rw\n4 1 0:4 / /dev/shm rw - tmpfs shm rw\n"
    )
    monkeypatch.setattr(home, "MOUNTS", tmp_path / "mounts")
    (notice,) = home.home_warnings(home.runs_home())
    assert notice.code == "runs.temporary_disk" and "(overlay)" in notice.text
    monkeypatch.setattr(home, "SYSTEM_FOLDERS", ("/etc", "/dev"))  # this test's folders are below /tmp
    assert home.persistent_disk() == workspace
    assert f"ftbench home {workspace}/ftbench" in home.home_warnings(home.runs_home())[0].text
    monkeypatch.setenv("FTBENCH_RUNS", str(tmp_path / "chosen"))
    assert home.home_warnings(home.runs_home()) == []
    monkeypatch.delenv("FTBENCH_RUNS")
    config.write_text(f'home = "{tmp_path}/chosen"\n')
    assert home.home_warnings(home.runs_home()) == []


def test_without_a_list_of_mounts_nothing_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home, "MOUNTS", tmp_path / "absent")
    assert home.home_warnings(tmp_path) == []


def test_a_run_records_the_directory_it_was_started_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / 'a "project"\n\x1b[31m'
    project.mkdir()
    monkeypatch.chdir(project)
    run = create(tmp_path / "runs")
    assert run.started_in() == run_dir.read_frozen(run).started_in == str(tmp_path / 'a "project"\\n\\x1b[31m')
    assert run_dir.edited_keys(run.config_file) == set()


def test_a_run_of_a_version_that_did_not_record_it_opens(tmp_path: Path) -> None:
    run = create(tmp_path / "runs")
    lines = run.config_file.read_text().splitlines()
    run.config_file.write_text("\n".join(line for line in lines if not line.startswith("started_in")))
    assert run.started_in() == run_dir.read_frozen(run).started_in == ""
    run.config_file.write_text("started_in = \x00")
    assert run.started_in() == ""
    run.config_file.unlink()
    assert run.started_in() == ""


def test_the_lock_folder_is_the_same_for_every_home_and_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FTBENCH_LOCKS")
    folders = set()
    for number in range(2):
        monkeypatch.setenv("TMPDIR", f"/session-{number}")
        monkeypatch.setenv("FTBENCH_RUNS", f"/runs-{number}")
        folders.add(locks.lock_folder())
    assert folders == {Path(f"/tmp/ftbench-{os.getuid()}")}


def test_a_name_that_is_not_found_says_what_runs_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "other" / "20260101-000000-demo-full-full-beef"
    device = locks.acquire(locks.device_lock("cpu"), f"1 {elsewhere}")
    assert device is not None
    try:
        assert folder.running_elsewhere(tmp_path / "other") == ""
        text = folder.running_elsewhere(tmp_path / "runs")
        assert text.startswith("full-beef ") and text.endswith(f" {tmp_path}/other.")
        with pytest.raises(UserError) as error:
            RunDir.find(tmp_path / "runs", "last")
        assert error.value.code == "run.not_found" and error.value.hint.endswith(text)
    finally:
        os.close(device)
    assert folder.running_elsewhere(tmp_path / "runs") == ""


def test_a_name_that_several_runs_have_is_refused(tmp_path: Path) -> None:
    create(tmp_path), create(tmp_path)
    with pytest.raises(UserError) as error:
        RunDir.find(tmp_path, "demo")
    assert error.value.code == "run.ambiguous_name"
