"""Builds the stand-in for NVML (`nvml/stand_in.c`)."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from places import TESTS

SOURCE = TESTS / "nvml" / "stand_in.c"
COMPILER = shutil.which("cc") or shutil.which("gcc")


def build(folder: Path, *flags: str) -> Path:
    """The stand-in under the library's name, in a folder for LD_LIBRARY_PATH."""
    folder.mkdir()
    (folder / "libnvidia-ml.so.1").write_bytes(compiled(flags))
    return folder


@cache
def compiled(flags: tuple[str, ...]) -> bytes:
    """The shared library, compiled once per process."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.so"
        command = [COMPILER or "cc", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", *flags, str(SOURCE)]
        subprocess.run([*command, "-o", str(made)], check=True)
        return made.read_bytes()
