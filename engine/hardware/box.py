"""What is wrong with the machine, as far as files and NVML tell without torch: driver, shared memory, clock."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from msgspec import Struct

from engine.hardware.nvml import Nvml

DRIVERS = {11: 450, 12: 525, 13: 580}
"""CUDA major version -> the oldest driver branch that supports its minor versions (NVIDIA's CUDA release notes, table
"CUDA Toolkit and Minimum Required Driver Version for CUDA Minor Version Compatibility")."""
TORCH_INDEX = "https://pytorch.org/get-started/locally"
SHARED_MEMORY = Path("/dev/shm")
MIN_SHARED_MEMORY = 1 << 30
"""NCCL asks for about 10 MB per rank and channel, and containers have 64 MiB unless they are started with more."""
DEVICES = Path("/dev")
DAY = 86400


class BoxCheck(Struct, frozen=True):
    """One thing about the machine, and what to do where it is not right."""

    state: Literal["ok", "note", "bad"]
    subject: str
    text: str


def torch_build() -> tuple[str, str | None]:
    """Version of the installed torch, and the CUDA version that it was built with, without importing it.

    Raises PackageNotFoundError without torch.
    """
    version = importlib.metadata.version("torch")
    spec = importlib.util.find_spec("torch")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    try:
        text = (folder / "version.py").read_text("utf-8")
    except OSError:
        return version, None
    cuda_line = re.search(r"^cuda[^=\n]*= *'([0-9.]+)'", text, re.MULTILINE)
    return version, cuda_line.group(1) if cuda_line else None


def driver_problem(version: str, cuda: str | None, nvml: Nvml) -> tuple[str, str] | None:
    """Why the driver cannot run this build of torch, and what to do; None where nothing speaks against it."""
    driver, supported = nvml.driver() or "of unknown version", nvml.cuda_version()
    if cuda is None:
        newest = f" {supported[0]}.{supported[1]} or older" if supported else ""
        return f"torch {version} is built without CUDA", f"install torch for CUDA{newest} ({TORCH_INDEX})"
    major = int(cuda.split(".")[0])
    if supported and supported[0] < major:
        needed = f"{DRIVERS[major]} or newer" if major in DRIVERS else f"that supports CUDA {cuda}"
        why = f"driver {driver} supports CUDA {supported[0]}.{supported[1]}, torch {version} needs CUDA {cuda}"
        return why, f"install driver {needed}, or torch for CUDA {supported[0]} ({TORCH_INDEX})"
    return None


def box_checks(nvml: Nvml) -> Iterator[BoxCheck]:
    """Driver against torch's build, devices that NVML does not see, shared memory, clock."""
    if nvml.why:
        if (nodes := sorted(DEVICES.glob("nvidia[0-9]*"))) or (DEVICES / "nvidiactl").exists():
            what = f"{', '.join(map(str, nodes)) or 'nvidiactl'} exists, and NVML does not answer ({nvml.why})"
            yield BoxCheck("bad", "driver", f"{what}; reload the driver, or start the container with --gpus all")
    else:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # reported with the libraries
            if (problem := driver_problem(*torch_build(), nvml)) and nvml.gpus():
                yield BoxCheck("bad", "driver", "; ".join(problem))

    with contextlib.suppress(OSError):
        if (total := shutil.disk_usage(SHARED_MEMORY).total) < MIN_SHARED_MEMORY:
            what = f"{total >> 20} MiB: runs on several GPUs may fail; start the container with --shm-size=8g"
            yield BoxCheck("note", str(SHARED_MEMORY), what)

    # If the clock is behind the time of installation, downloads fail: certificates are not valid yet.
    installed = max((path.stat().st_mtime for path in Path(__file__).parents[1].glob("*/__init__.py")), default=0.0)
    if time.time() < installed - DAY:
        what = f"{time.strftime('%Y-%m-%d %H:%M')} is before the installation of ftbench: downloads will fail"
        yield BoxCheck("bad", "clock", f"{what}; set the clock (`timedatectl set-ntp true`)")
