"""Which device a run uses: the real pynvml with a stand-in library (`tests/nvml/stand_in.c`), in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import FTBENCH
from nvml_library import COMPILER, build

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the stand-in for NVML cannot be built")

GIB = 2**30
GPU = "{0} name {1}\n{0} uuid {2}\n{0} total {3}\n{0} used 0\n"
MACHINE = (
    "all count 3\nall driver 470.82\nall cuda 11040\n"
    + GPU.format(0, "NVIDIA L4", "GPU-0123", 22 * GIB)
    + GPU.format(1, "NVIDIA A100-SXM4-80GB", "GPU-abcd", 80 * GIB)
    + GPU.format(2, "NVIDIA A100-SXM4-80GB", "GPU-ffff", 80 * GIB)
    + "2 migmode 1\n2 mig 8\n2 mig 9\n"
    + GPU.format(8, "NVIDIA A100-SXM4-80GB MIG 1g.10gb", "MIG-777", 10 * GIB)
    + GPU.format(9, "NVIDIA A100-SXM4-80GB MIG 2g.20gb", "MIG-888", 20 * GIB)
)
SELECT = """
import json, os, sys
from engine.config.errors import UserError
from engine.hardware.devices import select_device
from engine.memory.formula.memory_budget import local_budget
setting = json.loads(sys.argv[1])
try:
    device, budget = select_device(setting), local_budget(device=setting)
    device.apply()
    environment = [os.environ["CUDA_DEVICE_ORDER"], os.environ.get("CUDA_VISIBLE_DEVICES")]
    environment += [os.environ.get("PYTORCH_ALLOC_CONF"), os.environ["TORCH_CUDNN_SDPA_DEPRIORITIZED"]]
    print(json.dumps([device.lock, device.title, budget.name, budget.total, *environment]))
except UserError as error:
    print(json.dumps([error.code, error.line]))
"""
DRIVER = """
import sys, types
import torch
from engine.config.errors import UserError
from engine.config.schema import Config, Hardware
from engine.methods.machine import refuse_unused_gpu
torch.version.cuda = sys.argv[1] or None
machine = types.SimpleNamespace(device="cpu")
try:
    refuse_unused_gpu(Config(hardware=Hardware(device=sys.argv[2])), machine)
    print("the CPU is used")
except UserError as error:
    print(error.code, error.line)
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml") / "lib")


class Box:
    """A machine with the GPUs of a scenario."""

    def __init__(self, library: Path, scenario: Path) -> None:
        self.library, self.scenario = library, scenario
        scenario.write_text(MACHINE)

    def environment(self, visible: str | None = None) -> dict[str, str]:
        chosen = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return own | {"LD_LIBRARY_PATH": str(self.library), "NVML_STAND_IN": str(self.scenario)} | chosen

    def python(self, code: str, *arguments: str, visible: str | None = None) -> str:
        command = [sys.executable, "-c", code, *arguments]
        environment = self.environment(visible)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def select(self, setting: int | str = "auto", visible: str | None = None) -> list[Any]:
        selection: list[Any] = json.loads(self.python(SELECT, json.dumps(setting), visible=visible))
        return selection


@pytest.fixture
def box(library: Path, tmp_path: Path) -> Box:
    return Box(library, tmp_path / "gpus.txt")


@pytest.mark.parametrize(
    ("setting", "visible", "lock", "title", "gibibytes"),
    [
        ("auto", None, "GPU-0123", "GPU 0", 22),
        ("auto", "1,0", "GPU-abcd", "GPU 1", 80),
        ("auto", "GPU-ab", "GPU-abcd", "GPU 1", 80),
        (1, None, "GPU-abcd", "GPU 1", 80),
        ("1", None, "GPU-abcd", "GPU 1", 80),
        ("GPU-abcd", None, "GPU-abcd", "GPU 1", 80),
        ("GPU-ab", "0,1", "GPU-abcd", "GPU 1", 80),
        ("1", "GPU-abcd", "GPU-abcd", "GPU 1", 80),
        ("MIG-888", None, "MIG-888", "MIG instance 888", 20),
        ("2.1", None, "MIG-888", "MIG instance 888", 20),
        ("MIG-88", "2", "MIG-888", "MIG instance 888", 20),
        ("2", None, "MIG-777", "MIG instance 777", 10),  # CUDA uses the first instance
    ],
)
def test_one_lock_and_one_plan_however_a_gpu_is_named(
    setting: int | str, visible: str | None, lock: str, title: str, gibibytes: int, box: Box
) -> None:
    selection = box.select(setting, visible)
    assert selection[:2] == [lock, title] and selection[3] == gibibytes * GIB
    segments = None if lock.startswith("MIG-") else "expandable_segments:True"
    assert selection[4:] == ["PCI_BUS_ID", lock, segments, "1"]


LIST = """
import json, sys
from engine.config.errors import UserError
from engine.hardware.devices import runs_at_once, select_devices
from engine.memory.formula.memory_budget import local_budget
try:
    locks = [device.lock for device in select_devices(sys.argv[1])]
    print(json.dumps([locks, runs_at_once([(sys.argv[1], 1)]), local_budget(device=sys.argv[1]).total]))
except UserError as error:
    print(json.dumps([error.code]))
"""


@pytest.mark.parametrize(
    ("setting", "visible", "expected", "gibibytes"),
    [
        ("all", None, ["GPU-0123", "GPU-abcd", "MIG-777", "MIG-888"], 10),
        ("all", "1,0", ["GPU-abcd", "GPU-0123"], 22),
        ("all", "1,7,0", ["GPU-abcd"], 80),  # CUDA ignores what follows an invalid entry
        ("1,0", None, ["GPU-abcd", "GPU-0123"], 22),
        ("0,GPU-01", None, ["GPU-0123"], 22),
        ("1,MIG-888", None, ["GPU-abcd", "MIG-888"], 20),
        ("1:2", None, ["GPU-abcd-1of2", "GPU-abcd-2of2"], 40),
        ("1,0:2", "0,1", ["GPU-abcd-1of2", "GPU-abcd-2of2", "GPU-0123-1of2", "GPU-0123-2of2"], 11),
    ],
)
def test_several_devices_are_planned_for_the_one_with_the_least_memory(
    setting: str, visible: str | None, expected: list[str], gibibytes: int, box: Box
) -> None:
    listing = json.loads(box.python(LIST, setting, visible=visible))
    assert listing == [expected, len(expected), gibibytes * GIB]


def test_one_that_does_not_exist_or_is_hidden_refuses_all(box: Box) -> None:
    assert json.loads(box.python(LIST, "0,7")) == ["device.not_found"]
    assert json.loads(box.python(LIST, "0,1", visible="0")) == ["device.hidden"]


CHANGING = """
import sys
from pathlib import Path
from engine.hardware.devices import select_device, still_exists
file = Path(sys.argv[1])
text = file.read_text()
lost = text + "1 error.everything 15\\n"
"""
"""The start of a program under which the GPUs change."""


def test_a_gpu_that_is_lost_no_longer_exists(box: Box) -> None:
    code = f"{CHANGING}device = select_device('1'); before = still_exists(device)\n"
    code += "file.write_text(lost); print(before, still_exists(device))"
    assert box.python(code, str(box.scenario)) == "True False"


def test_a_gpu_that_was_lost_when_it_was_selected_is_given_up_when_it_is_back(box: Box) -> None:
    """Selected without its UUID it has another lock than for other runs: two runs could use it at a time."""
    code = f"{CHANGING}file.write_text(lost); early = select_device('1'); file.write_text(text)\n"
    code += "late = select_device('1'); print(early.lock, still_exists(early), late.lock, still_exists(late))"
    assert box.python(code, str(box.scenario)) == "1 False GPU-abcd True"


def test_a_gpu_without_a_uuid_is_known_by_its_index(box: Box) -> None:
    code = f"{CHANGING}file.write_text(text.replace('1 uuid GPU-abcd', ''))\n"
    code += "device = select_device('1'); print(device.lock, still_exists(device))"
    assert box.python(code, str(box.scenario)) == "1 True"


def test_settings_of_the_user_are_kept(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")  # the former name of PYTORCH_ALLOC_CONF
    monkeypatch.setenv("TORCH_CUDNN_SDPA_DEPRIORITIZED", "0")
    assert box.select("1")[6:] == [None, "0"]


@pytest.mark.parametrize(("setting", "visible"), [("cpu", None), ("cpu", "1"), ("auto", ""), ("auto", "-1")])
def test_the_cpu_hides_every_gpu_from_the_worker(setting: str, visible: str | None, box: Box) -> None:
    selection = box.select(setting, visible)
    assert selection[:2] == ["cpu", "the CPU"] and selection[5] == ""


@pytest.mark.parametrize(
    ("setting", "visible", "code", "names"),
    [
        ("7", None, "device.not_found", ["GPU 7: hardware.device;", " 0 (NVIDIA L4, GPU-0123), 1 "]),
        ("GPU-zz", None, "device.not_found", ["GPU GPU-zz"]),
        ("0:0", None, "device.not_found", ["device 0:0"]),
        ("0,,1", None, "device.not_found", ["device 0,,1"]),
        ("a:b,c", None, "device.not_found", ["device a:b,c"]),
        ("0", "1", "device.hidden", ["CUDA_VISIBLE_DEVICES=1", "GPU 0"]),
        ("auto", "GPU-zz", "device.not_found", ["CUDA_VISIBLE_DEVICES=GPU-zz"]),
    ],
)
def test_a_device_that_does_not_exist_is_refused(
    setting: str, visible: str | None, code: str, names: list[str], box: Box
) -> None:
    selection = box.select(setting, visible)
    assert selection[0] == code and all(name in selection[1] for name in names)


def test_mig_mode_without_instances_is_refused(box: Box) -> None:
    box.scenario.write_text(MACHINE.replace("2 mig 8\n2 mig 9\n", ""))
    assert box.select("2")[0] == "device.no_mig"


def test_a_subcommand_refuses_it_in_one_line(box: Box, tmp_path: Path) -> None:
    command = [FTBENCH, "run", "demo-lora", "--device", "7", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, env=box.environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no GPU 7" in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cuda", "device", "names"),
    [
        ("13.0", "auto", ["driver 470.82", "CUDA 11.4", "CUDA 13.0"]),
        ("13.0", "1", ["driver 580", "CUDA 11"]),
        ("", "auto", ["without CUDA: GPU 0;", "CUDA 11.4"]),
    ],
)
def test_a_driver_that_is_too_old_is_refused(cuda: str, device: str, names: list[str], box: Box) -> None:
    output = box.python(DRIVER, cuda, device)
    assert output.startswith("gpu.unusable ") and all(name in output for name in ("NVIDIA L4", "--device cpu", *names))


@pytest.mark.slow
def test_the_cpu_is_used_if_it_was_chosen(box: Box) -> None:
    assert box.python(DRIVER, "13.0", "cpu") == "the CPU is used"
    assert box.python(DRIVER, "13.0", "auto", visible="") == "the CPU is used"
