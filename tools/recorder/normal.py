"""What is equal whenever a program does the same: values without times, memory, paths and names of runs.

A recording is a file of JSON lines: what it was recorded on, then a name and a value each. Floats are stored exactly.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from places import ROOT

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "tokenizers", "numpy")
INSTRUCTION_SETS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni", "amx_bf16", "avx_ne_convert")
TIMES = """t elapsed seconds step_seconds validation_seconds training_seconds cpu_seconds all_seconds probe_seconds
    export_seconds write_seconds seconds_per_token first_token tokens_per_second computed_tokens_per_second hours
    created started updated blocked load estimates disturbed time since changed"""
MACHINE = """host pid machine versions version peak peak_training_bytes energy joules money cost resident_before
    bytes free memory measured worst median runs_at_once other_device budget v seq started_in"""
CHANGING = frozenset(f"{TIMES} {MACHINE}".split())
"""Keys whose values differ each time."""
UNITS = r"(?:ms|s|min|h|hours?|minutes?|MB|MiB|GB|GiB|KB|kB|tokens/s|s/step|Wh|W|J|USD)"
CHANGING_TEXTS = (
    (re.compile(r"\d{8}-\d{6}-([\w.-]+?)-[0-9a-f]{4}\b"), r"RUN-\1"),
    (re.compile(r"\b(qlora|lora|full)-[0-9a-f]{4}\b"), r"\1-RUN"),
    (re.compile(r"\b\d+(?::\d\d){1,2}\b"), "TIME"),
    (re.compile(rf"\d[\d,]*(?:\.\d+)?(?= ?{UNITS}\b)"), "N"),
    (re.compile(r"\d+(?:\.\d+)?×"), "N×"),
    (re.compile(r"/tmp/[^\s'\"]*"), "TMP"),
)


class Recording(NamedTuple):
    """A stored recording."""

    about: dict[str, Any]
    """What it was recorded on."""
    values: dict[str, Any]
    """By name."""


def normal(value: Any, folder: Path) -> Any:
    """A value without what differs each time; several tables are a table of columns. folder: of this recording, whose
    path is not recorded.
    """
    if isinstance(value, dict):
        kept = {name: inner for name, inner in value.items() if not changes(name, inner)}
        return {normal_text(name, folder): normal(inner, folder) for name, inner in kept.items()}
    if isinstance(value, list):
        inner = [normal(each, folder) for each in value]
        return columns(inner) if len(inner) > 1 and all(isinstance(each, dict) for each in inner) else inner
    return normal_text(value, folder) if isinstance(value, str) else value


def changes(key: str, value: Any) -> bool:
    """Whether a value differs each time: also the end of a run and the error of a prediction, which other tables name
    like shares and texts; and the hash of a JSON file, which depends on the order of a set.
    """
    is_moment = key == "ended" and isinstance(value, float) and value > 1e9
    return key in CHANGING or is_moment or key.endswith(".json") or (key == "error" and isinstance(value, float))


def normal_text(text: str, folder: Path) -> str:
    for path, name in ((folder, "HOME"), (ROOT, "REPOSITORY"), (Path(sys.prefix), "PYTHON")):
        text = text.replace(str(path), name)
    for pattern, replacement in CHANGING_TEXTS:
        text = pattern.sub(replacement, text)
    return text


def columns(rows: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows as a list per key."""
    table: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row.items():
            table.setdefault(key, []).append(value)
    return table


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def this_computer() -> dict[str, Any]:
    """What floats depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return {
        "instruction sets": [name for name in INSTRUCTION_SETS if name in flags],
        "python": ".".join(map(str, sys.version_info[:3])),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
    }


def write_recording(file: Path, values: Iterable[tuple[str, Any]]) -> None:
    """Write what is recorded on this computer. Each value is shown when it is complete."""
    lines = [this_computer()]
    for name, value in values:
        print(f"  {name}", flush=True)
        lines.append({"name": name, "value": value})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")


def read_recording(file: Path) -> Recording:
    about, *lines = map(json.loads, file.read_text("utf-8").splitlines())
    return Recording(about, {line["name"]: line["value"] for line in lines})


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every number and text with its path: `events.step.loss[3]`."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and value:
        for number, inner in enumerate(value):
            yield from leaves(inner, f"{path}[{number}]")
    else:
        yield path, value
