"""Modules that code imports, determined in a new process."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "datasets", "peft", "bitsandbytes", "accelerate", "numpy", "pyarrow")


def loaded_by(code: str) -> set[str]:
    """Top-level modules in `sys.modules` after running the code."""
    show = "import sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-P", "-c", f"{code}; {show}"], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
