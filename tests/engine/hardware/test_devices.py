"""Which device a run uses: the real pynvml with a stand-in library (`tests/nvml/stand_in.c`), in a separate process."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command import FTBENCH
from nvml_library import COMPILER, build

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the stand-in for NVML cannot be built")

GIB = 2**30
Case = tuple[Any, str | None]
"""A setting and CUDA_VISIBLE_DEVICES, None where it is not set."""
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

def answer(setting):
    try:
        device, budget = select_device(setting), local_budget(device=setting)
    except UserError as error:
        return [error.code, error.line]
    device.apply()
    environment = [os.environ["CUDA_DEVICE_ORDER"], os.environ.get("CUDA_VISIBLE_DEVICES")]
    environment += [os.environ.get("PYTORCH_ALLOC_CONF"), os.environ["TORCH_CUDNN_SDPA_DEPRIORITIZED"]]
    return [device.lock, device.title, budget.total, *environment]
"""
DRIVER = """
import json, os, sys, types
import torch
from engine.config.errors import UserError
from engine.config.schema import Config, Hardware
from engine.methods.machine import refuse_unused_gpu

def answer(setting):
    torch.version.cuda, device = setting
    try:
        refuse_unused_gpu(Config(hardware=Hardware(device=device)), types.SimpleNamespace(device="cpu"))
    except UserError as error:
        return f"{error.code} {error.line}"
    return "the CPU is used"
"""
EACH = """
started_with = dict(os.environ)
answers = []
for setting, visible in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(started_with | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}))
    answers.append(answer(setting))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml") / "lib")


class Box:
    """A machine with the GPUs of a scenario."""

    def __init__(self, library: Path, scenario: Path) -> None:
        self.library, self.scenario = library, scenario
        scenario.write_text(MACHINE)

    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        return own | {"LD_LIBRARY_PATH": str(self.library), "NVML_STAND_IN": str(self.scenario)}

    def python(self, code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def answers(self, code: str, *cases: Case) -> list[Any]:
        """What the function `answer` of the code returns for each case, all in one process."""
        answers: list[Any] = json.loads(self.python(code + EACH, json.dumps(cases)))
        return answers


@pytest.fixture
def box(library: Path, tmp_path: Path) -> Box:
    return Box(library, tmp_path / "gpus.txt")


NAMED = [
    ("auto", None, "GPU-abcd", "GPU 1", 80),
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
]
"""Setting, CUDA_VISIBLE_DEVICES, lock, title and GiB."""


def test_one_lock_and_one_plan_however_a_gpu_is_named(box: Box) -> None:
    selections = box.answers(SELECT, *(case[:2] for case in NAMED))
    for (*_, lock, title, gibibytes), selection in zip(NAMED, selections, strict=True):
        segments = None if str(lock).startswith("MIG-") else "expandable_segments:True"
        assert selection == [lock, title, int(gibibytes) * GIB, "PCI_BUS_ID", lock, segments, "1"]


def test_auto_is_the_gpu_with_the_most_free_memory_of_equal_ones_one_without_processes(box: Box) -> None:
    chance, chosen, expected = random.Random(1), [], []
    for _ in range(6):
        used = [chance.choice((0, 9, 43, 71)) for _ in range(8)]
        busy = [chance.random() < 0.5 for _ in used]
        text = "all count 8\n"
        for number, (gibibytes, has_process) in enumerate(zip(used, busy, strict=True)):
            text += GPU.format(number, "NVIDIA A100-SXM4-80GB", f"GPU-{number}", 80 * GIB)
            text = text.replace(f"{number} used 0", f"{number} used {gibibytes * GIB}")
            text += f"{number} process {9000 + number} -1\n" * has_process
        box.scenario.write_text(text)
        (selection,) = box.answers(SELECT, ("auto", None))
        chosen.append(selection[1])
        expected.append(f"GPU {min(range(8), key=lambda number: (used[number], busy[number], number))}")
    assert chosen == expected


LIST = """
import json, os, sys
from engine.config.errors import UserError
from engine.hardware.devices import runs_at_once, select_devices
from engine.memory.formula.memory_budget import local_budget

def answer(setting):
    try:
        locks = [device.lock for device in select_devices(setting)]
    except UserError as error:
        return [error.code]
    return [locks, runs_at_once([(setting, 1)]), local_budget(device=setting).total]
"""


SEVERAL: list[tuple[str, str | None, list[str], int]] = [
    ("all", None, ["GPU-0123", "GPU-abcd", "MIG-777", "MIG-888"], 10),
    ("all", "1,0", ["GPU-abcd", "GPU-0123"], 22),
    ("all", "1,7,0", ["GPU-abcd"], 80),  # CUDA ignores what follows an invalid entry
    ("1,0", None, ["GPU-abcd", "GPU-0123"], 22),
    ("0,GPU-01", None, ["GPU-0123"], 22),
    ("1,MIG-888", None, ["GPU-abcd", "MIG-888"], 20),
    ("1:2", None, ["GPU-abcd-1of2", "GPU-abcd-2of2"], 40),
    ("1,0:2", "0,1", ["GPU-abcd-1of2", "GPU-abcd-2of2", "GPU-0123-1of2", "GPU-0123-2of2"], 11),
]
"""Setting, CUDA_VISIBLE_DEVICES, locks and GiB."""


def test_several_devices_are_planned_for_the_one_with_the_least_memory(box: Box) -> None:
    """One that does not exist or is hidden refuses all."""
    *answers, missing, hidden = box.answers(LIST, *(case[:2] for case in SEVERAL), ("0,7", None), ("0,1", "0"))
    assert answers == [[locks, len(locks), gibibytes * GIB] for *_, locks, gibibytes in SEVERAL]
    assert (missing, hidden) == (["device.not_found"], ["device.hidden"])


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
    assert box.answers(SELECT, ("1", None))[0][5:] == [None, "0"]


def test_the_cpu_hides_every_gpu_from_the_worker(box: Box) -> None:
    for selection in box.answers(SELECT, ("cpu", None), ("cpu", "1"), ("auto", ""), ("auto", "-1")):
        assert selection[:2] == ["cpu", "the CPU"] and selection[4] == ""


REFUSED: list[tuple[str, str | None, str, list[str]]] = [
    ("7", None, "device.not_found", ["GPU 7: hardware.device;", " 0 (NVIDIA L4, GPU-0123), 1 "]),
    ("GPU-zz", None, "device.not_found", ["GPU GPU-zz"]),
    ("0:0", None, "device.not_found", ["device 0:0"]),
    ("0,,1", None, "device.not_found", ["device 0,,1"]),
    ("a:b,c", None, "device.not_found", ["device a:b,c"]),
    ("0", "1", "device.hidden", ["CUDA_VISIBLE_DEVICES=1", "GPU 0"]),
    ("auto", "GPU-zz", "device.not_found", ["CUDA_VISIBLE_DEVICES=GPU-zz"]),
]
"""Setting, CUDA_VISIBLE_DEVICES, code, and what the line names."""


def test_a_device_that_does_not_exist_is_refused(box: Box) -> None:
    answers = box.answers(SELECT, *(case[:2] for case in REFUSED))
    for (*_, expected, names), (code, line) in zip(REFUSED, answers, strict=True):
        assert code == expected and all(name in line for name in names), line


def test_mig_mode_without_instances_is_refused_and_not_the_first_gpu(box: Box) -> None:
    box.scenario.write_text(MACHINE.replace("2 mig 8\n2 mig 9\n", ""))
    named, hidden, first = box.answers(SELECT, ("2", None), ("auto", "2"), ("auto", "2,1"))
    assert named[0] == hidden[0] == "device.no_mig" and first[0] == "GPU-abcd"


def test_a_subcommand_refuses_it_in_one_line(box: Box, tmp_path: Path) -> None:
    command = [FTBENCH, "run", "demo-lora", "--device", "7", "--runs", str(tmp_path / "runs")]
    done = subprocess.run(command, env=box.environment(), capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "no GPU 7" in done.stderr
    assert not (tmp_path / "runs").exists()


TOO_OLD = [
    ("13.0", "auto", ["driver 470.82", "CUDA 11.4", "CUDA 13.0"]),
    ("13.0", "1", ["driver 580", "CUDA 11"]),
    (None, "auto", ["without CUDA: GPU 1;", "CUDA 11.4"]),
]
"""torch's CUDA version, setting, and what the line names."""


@pytest.mark.slow
def test_a_driver_that_is_too_old_is_refused_and_the_cpu_is_used_if_it_was_chosen(box: Box) -> None:
    chosen: list[Case] = [(("13.0", "cpu"), None), (("13.0", "auto"), "")]
    *refusals, by_setting, by_variable = box.answers(DRIVER, *((case[:2], None) for case in TOO_OLD), *chosen)
    for (*_, names), line in zip(TOO_OLD, refusals, strict=True):
        assert line.startswith("gpu.unusable "), line
        assert all(name in line for name in ("NVIDIA A100-SXM4-80GB", "GPU 1", "--device cpu", *names)), line
    assert by_setting == by_variable == "the CPU is used"
