"""What the machine pane shows of a GPU: the real pynvml with a stand-in library (`tests/nvml/stand_in.c`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nvml_library import COMPILER, build

from engine.hardware import nvml

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler: the stand-in for NVML cannot be built")

GIB = 2**30
CARD = """
{0} name NVIDIA A100-SXM4-80GB
{0} total 85899345920
{0} used {used}
{0} power 312000
{0} energy 5000
{0} load 97
{0} temperature 64
"""
TWO = "all count 2" + CARD.format(0, used=40 * GIB) + CARD.format(1, used=GIB)
LOOKS = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from engine.hardware import nvml
from tui.live.run_state import ExpectedPeak
from tui.live.machine import MachineSampler, SampleRequest, WatchedProcess
from tui.widgets.memory_pane import MemoryView
nvml.NAMESPACE, worker = Path(sys.argv[2]), WatchedProcess(*json.loads(sys.argv[3]))
eyes, scenario, said = None, Path(sys.argv[1]), []
for text in sys.argv[5:]:
    scenario.write_text(text)
    if eyes is None or sys.argv[4] == "each":
        eyes = MachineSampler()
    sample = eyes.look(SampleRequest(worker))
    view = MemoryView(sample, {}, ExpectedPeak(33 * 2**30), next_gpu="0", live=True, device_key="D")
    lines = [view.title, view.load(200), view.note, *(line.plain for line in view.lines(100, 0))]
    said.append({"sample": asdict(sample), "lines": lines, "joules": [gpu.energy() for gpu in eyes.gpus]})
print(json.dumps(said))
"""


@dataclass
class Look:
    """A sample from a separate process, and the lines of the pane."""

    sample: dict[str, Any]
    lines: list[str]
    joules: list[float | None]

    @property
    def gpus(self) -> list[dict[str, Any]]:
        gpus: list[dict[str, Any]] = self.sample["gpus"]
        return gpus


def looks(
    tmp_path: Path,
    *scenarios: str,
    flags: tuple[str, ...] = (),
    worker: tuple[int | None, ...] = (4242, 4242),
    container: bool = False,
    opened: str = "first",
) -> list[Look]:
    """The result of each scenario in order, with the library opened in the first, or in `each`.

    `worker` is the run's process as WatchedProcess has it; `container`: process ids are not the driver's.
    """
    namespace = tmp_path / "namespace"
    namespace.symlink_to("pid:[4026532999]" if container else nvml.INITIAL)
    library, scenario = build(tmp_path / "lib", *flags), tmp_path / "cards.txt"
    scenario.write_text(scenarios[0])
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STAND_IN": str(scenario)}
    command = [sys.executable, "-c", LOOKS, str(scenario), str(namespace), json.dumps(worker), opened, *scenarios]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [Look(**values) for values in json.loads(done.stdout)]


MIG = (
    "all count 3"
    + CARD.format(0, used=GIB)
    + f"0 process 4243 {GIB}\n"
    + CARD.format(1, used=2 * GIB)
    + "1 migmode 1\n1 mig 8\n1 mig 9\n8 uuid MIG-7\n9 uuid MIG-8\n"
    + CARD.format(8, used=GIB)
    + CARD.format(9, used=0)
    + CARD.format(2, used=0)
    + "2 migmode 1\n"
)


def test_a_gpu_in_mig_mode_is_replaced_by_its_instances(tmp_path: Path) -> None:
    """Nothing can run on the whole GPU, and nothing at all on one without an instance: neither is said to be free."""
    (look,) = looks(tmp_path, MIG)
    assert [(gpu["index"], gpu["instance"], gpu["uuid"]) for gpu in look.gpus if gpu["total"]] == [
        (0, None, None),
        (1, 0, "MIG-7"),
        (1, 1, "MIG-8"),
    ]
    rows = [line for line in look.lines if line.lstrip().startswith(("0 ", "1.0 ", "1.1 ", "2 "))]
    assert len(rows) == 4
    assert ["free" in row for row in rows] == [False, True, True, False]
    assert ["D: select it" in row for row in rows] == [False, True, False, False]  # the GPU of the next run is in use
    assert "without an instance" in rows[3]


def test_two_gpus_with_this_run_and_foreign_processes(tmp_path: Path) -> None:
    me = os.getpid()
    text = f"{TWO}\n0 process 4242 {31 * GIB}\n0 process {me} {2 * GIB}\n1 process 999999999 -1\n"
    (look,) = looks(tmp_path, text + "0 power_limit 400000\n0 clock 1410\n")
    first, second = look.gpus
    assert first["name"] == "NVIDIA A100-SXM4-80GB" and first["total"] == 80 * GIB and first["used"] == 40 * GIB
    assert first["mine"] == 31 * GIB and (first["power"], first["load"], first["temperature"]) == (312.0, 97, 64)
    assert [(other["pid"], other["bytes"]) for other in first["others"]] == [(me, 2 * GIB)]
    assert second["mine"] is None
    (other,) = second["others"]
    unseen = "a process of another user or container"
    assert (other["pid"], other["name"], other["bytes"]) == (999999999, unseen, None)
    assert first["own"]["pid"] == 4242 and first["others"][0]["user"] and first["others"][0]["seconds"] > 0
    assert first["others"][0]["rss"] > 0 and "python" in first["others"][0]["command"]
    assert look.lines[:2] == ["VRAM", f"2 GPUs: {first['name']}  GPU 0: 97%  312/400 W  64 °C  1,410 MHz"]
    lines = [line for line in look.lines if "/80" in line]
    assert (
        len(lines) == 2 and " 40.0/80" in lines[0] and " 97%" in lines[0] and "31.0" in lines[0] and "2.0" in lines[0]
    )
    assert "predicted peak 33.0" in look.lines[-1]


def test_in_a_container_the_drivers_ids_are_distinguished_from_local_ids(tmp_path: Path) -> None:
    me = os.getpid()
    text = f"all count 1{CARD.format(0, used=40 * GIB)}\n0 process {me} {2 * GIB}\n0 process 70001 {31 * GIB}\n"
    (look,) = looks(tmp_path, text, worker=(me, 70001, 30 * GIB), container=True)
    (gpu,) = look.gpus
    assert gpu["mine"] == 31 * GIB  # as the run has found its id, and not the namesake of its id here
    unseen = "a process of another user or container"
    assert [(process["pid"], process["name"], process["bytes"]) for process in gpu["others"]] == [(me, unseen, 2 * GIB)]


def test_a_run_without_its_own_figure_uses_at_least_its_pool(tmp_path: Path) -> None:
    text = f"all count 1{CARD.format(0, used=40 * GIB)}\n0 process 70001 {31 * GIB}\n0 process 70002 -1\n"
    (look,) = looks(tmp_path, text, worker=(4242, None, 30 * GIB), container=True)
    assert look.gpus[0]["mine"] is None and len(look.gpus[0]["others"]) == 2
    assert any("this run ≥ 30.0" in line for line in look.lines)


def test_a_worker_in_a_container_finds_its_id_among_new_ones(tmp_path: Path) -> None:
    scenario, library = tmp_path / "cards.txt", build(tmp_path / "lib")
    scenario.write_text(f"{TWO}\n0 process 69999 {GIB}\n")
    (tmp_path / "namespace").symlink_to("pid:[4026532999]")
    first = scenario.read_text()
    new = {"one": (70001,), "none": (), "two": (70001, 70002)}
    later = [first + "".join(f"0 process {pid} {GIB}\n" for pid in pids) for pids in new.values()]
    code = (
        "import sys; from pathlib import Path; from engine.hardware import nvml; from engine.training.meters import *\n"
        "nvml.NAMESPACE, scenario = Path(sys.argv[1]), Path(sys.argv[2]); first = scenario.read_text()\n"
        "for text in sys.argv[3:]:\n"
        "    scenario.write_text(first); gpu = nvml.Nvml().gpu(0); meters = Meters(print, gpu)\n"
        "    scenario.write_text(text); meters._find_gpu_pid(gpu); print(meters.gpu_pid)"
    )
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STAND_IN": str(scenario)}
    command = [sys.executable, "-c", code, str(tmp_path / "namespace"), str(scenario), *later]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert dict(zip(new, done.stdout.split(), strict=True)) == {"one": "70001", "none": "None", "two": "None"}


def test_energy_is_measured_since_the_first_sample(tmp_path: Path) -> None:
    before, after = looks(tmp_path, TWO, TWO.replace("0 energy 5000", "0 energy 12500"))
    assert before.joules == [0.0, 0.0] and after.joules == [7.5, 0.0]


FIELDS = ("name", "used", "power", "load", "temperature", "process", "energy")


def test_a_failing_value_affects_no_other(tmp_path: Path) -> None:
    """With each error code of NVML; afterwards all values are read again."""
    working = f"{TWO}\n0 process 4242 {31 * GIB}\n"
    failures = [(field, code) for field in FIELDS for code in (3, 4, 15, 18, 999)]
    failing = (text for field, code in failures for text in (f"{working}0 error.{field} {code}\n", working))
    whole, *others = looks(tmp_path, working, *failing)
    for (field, code), look, after in zip(failures, others[::2], others[1::2], strict=True):
        of = {"process": "mine"}.get(field, field)
        shared = field == "used" and code == 3  # unified memory: the figures are the system's, and marked so
        known = {"name": "unnamed GPU", "used": look.sample["memory_used"] if shared else None}
        for key in ("name", "used", "mine", "power", "load", "temperature"):
            expected = known.get(key) if key == of else whole.gpus[0][key]
            assert look.gpus[0][key] == expected, (field, code, key)
        assert look.gpus[0]["shared"] == shared
        assert look.gpus[1] == whole.gpus[1]
        assert after.gpus == whole.gpus, (field, code)


def test_unified_memory_is_called_shared(tmp_path: Path) -> None:
    (look,) = looks(tmp_path, f"{TWO}\n0 error.total 3\n")
    assert look.gpus[0]["shared"] and look.gpus[0]["total"] == look.sample["memory_total"]
    assert look.lines[0] == "shared memory"


def test_a_gpu_that_falls_off_the_bus_is_still_named(tmp_path: Path) -> None:
    """During and before sampling: its values are missing, those of the other GPU are not."""
    _, lost = looks(tmp_path, TWO, f"{TWO}\n1 error.everything 15\n")
    assert lost.gpus[0]["load"] == 97 and lost.gpus[1]["load"] is None
    assert lost.gpus[1]["total"] is None and not lost.gpus[1]["shared"]
    assert any("not responding" in line for line in lost.lines)


def test_a_gpu_without_a_handle_is_counted(tmp_path: Path) -> None:
    (look,) = looks(tmp_path, f"{TWO}\n0 error.handle 15\n")
    assert [gpu["index"] for gpu in look.gpus] == [0, 1]
    assert look.gpus[0]["used"] is None and look.gpus[1]["load"] == 97
    assert any("not responding" in line for line in look.lines)


NO_GPUS = {
    "all error.init 18\n": "version mismatch",
    "all error.init 9\n": "Driver Not Loaded",
    "all error.init 4\n": "Insufficient Permissions",
    "all count 0\n": "no GPU found",
    "all error.count 4\n": "no GPU found",
}
"""Scenario -> reason."""


def test_no_gpus_gives_the_reason_and_shows_the_system(tmp_path: Path) -> None:
    results = looks(tmp_path, *NO_GPUS, worker=(os.getpid(),), opened="each")
    for look, why in zip(results, NO_GPUS.values(), strict=True):
        assert look.gpus == [] and why in look.sample["why"]
        assert look.sample["worker_rss"] > 0 and look.sample["memory_total"] > 0
        assert look.lines[0] == "system memory" and why in look.lines[2]


def test_an_old_driver_affects_only_values_that_it_lacks(tmp_path: Path) -> None:
    (look,) = looks(tmp_path, f"{TWO}\n0 process 4242 {GIB}\n", flags=("-DOLD_DRIVER",))
    assert look.gpus[0]["mine"] is None and look.gpus[0]["load"] == 97


def test_no_library_at_all(tmp_path: Path) -> None:
    """Without a library, or with an empty folder first in the search path."""
    env = os.environ | {"NVML_STAND_IN": ""}
    scenario = tmp_path / "cards.txt"
    command = [sys.executable, "-c", LOOKS, str(scenario), str(nvml.NAMESPACE), "[1, 1]", "first", ""]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    sample = json.loads(done.stdout)[0]["sample"]
    assert sample["gpus"] or sample["why"]


RECORDS = """
import json, sys
from dataclasses import asdict
from pathlib import Path
import msgspec
from engine.hardware import nvml
from engine.training.meters import LoadRecorder
loads, scenario = [], Path(sys.argv[1])
for texts in json.loads(sys.argv[2]):
    scenario.write_text(texts[0])
    recorder = LoadRecorder(nvml.Nvml().gpu(0))
    recorder.begin()
    for text in texts:
        scenario.write_text(text)
        recorder.sample(4242)
    loads.append(recorder.end())
print(msgspec.json.encode(loads).decode())
"""


def test_the_load_of_a_training_has_other_processes_clocks_and_throttling(tmp_path: Path) -> None:
    """As process 4242 records it while the GPUs change, and of a GPU without clocks and reasons."""
    plain = f"{TWO}\n0 process 4242 {31 * GIB}\n"
    own = f"{plain}0 clock 1410\n0 max_clock 1410\n"
    changed = f"{own.replace('0 clock 1410', '0 clock 1110')}0 process 1 {GIB}\n0 throttle 36\n"
    scenario, library = tmp_path / "gpus.txt", build(tmp_path / "lib")
    env = os.environ | {"LD_LIBRARY_PATH": str(library), "NVML_STAND_IN": str(scenario)}
    command = [sys.executable, "-c", RECORDS, str(scenario), json.dumps([[own, changed], [plain]])]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    load, without = json.loads(done.stdout)
    assert len(load["gpu_processes"]) == 1
    assert (load["clock"], load["max_clock"]) == (1260.0, 1410)
    assert load["throttled"] == ["power cap", "temperature"]  # bits 0x4 and 0x20
    assert without["gpu_processes"] == without["throttled"] == [] and without["clock"] is None
