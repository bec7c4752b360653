"""Builds the stand-in for NVML (`nvml/stand_in.c`)."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from places import TESTS

SOURCE = TESTS / "nvml" / "stand_in.c"
COMPILER = shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *flags: str) -> Path:
    """The stand-in under the library's name, in a folder for LD_LIBRARY_PATH."""
    folder.mkdir()
    command = [COMPILER or "cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags, str(SOURCE)]
    subprocess.run([*command, "-o", str(folder / "libnvidia-ml.so.1")], check=True)
    return folder
