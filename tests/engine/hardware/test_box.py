"""What `ftbench doctor` says of the machine without torch: each problem by what the system then shows."""

from __future__ import annotations

import shutil
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from engine.hardware import box

Usage = namedtuple("Usage", "total used free")


class Driver:
    """NVML with this driver; `why` where it does not answer."""

    def __init__(self, driver: str = "", cuda: tuple[int, int] | None = None, why: str = "") -> None:
        self._driver, self._cuda, self.why = driver, cuda, why

    def driver(self) -> str:
        return self._driver

    def cuda_version(self) -> tuple[int, int] | None:
        return self._cuda

    def gpus(self) -> list[str]:
        return ["a GPU"]


def checks(nvml: Any) -> dict[str, tuple[str, str]]:
    return {check.subject: (check.state, check.text) for check in box.box_checks(nvml)}


NO_GPU = Driver(why="NVML Shared Library Not Found")


@pytest.fixture(autouse=True)
def healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "DEVICES", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(8 << 30, 0, 8 << 30))


def test_a_healthy_machine_has_nothing_to_say() -> None:
    assert checks(NO_GPU) == {}


@pytest.mark.parametrize(
    ("torch", "cuda", "supported", "expected"),
    [
        ("2.13.0", "13.0", (13, 0), None),
        ("2.13.0", "12.6", (13, 0), None),
        ("2.13.0", "13.0", (12, 8), "580 or newer"),
        ("2.13.0+cpu", None, (12, 8), "built without CUDA"),
    ],
)
def test_the_driver_has_to_support_the_build_of_torch(
    torch: str, cuda: str | None, supported: tuple[int, int], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(box, "torch_build", lambda: (torch, cuda))
    said = checks(Driver("570.124", supported))
    assert (expected is None) == (said == {})
    assert expected is None or (said["driver"][0] == "bad" and expected in said["driver"][1])


def test_torchs_build_is_read_without_importing_it() -> None:
    import torch

    version, cuda = box.torch_build()
    # PyPI's wheel is version 2.15.0 to pip and 2.15.0+cu132 to torch.
    assert (version.partition("+")[0], cuda) == (torch.__version__.partition("+")[0], torch.version.cuda)


def test_a_device_without_an_answer_of_nvml_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    assert checks(NO_GPU)["driver"][0] == "bad"


def test_little_shared_memory_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(64 << 20, 0, 64 << 20))
    state, text = checks(NO_GPU)["/dev/shm"]
    assert state == "note" and text.startswith("64 MiB") and "--shm-size" in text


def test_a_clock_before_the_installation_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    newest = max(path.stat().st_mtime for path in Path(box.__file__).parents[1].glob("*/__init__.py"))
    monkeypatch.setattr(time, "time", lambda: newest - 2 * box.DAY)
    assert checks(NO_GPU)["clock"][0] == "bad"
