"""Common GPUs: memory, price per hour and peak FLOP/s, from `presets/gpus.toml` and the user's own list."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated

import msgspec
import tomli
from msgspec import Meta, Struct, field

from engine.config.errors import UserError
from engine.config.files import read_small
from engine.config.home import config_file
from engine.config.preset_library import shipped_folder


class Gpu(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One GPU model."""

    name: str
    memory: Annotated[float, Meta(gt=0)]
    """GiB that a process can allocate."""
    price_per_hour: Annotated[float, Meta(ge=0)]
    currency: str = "USD"
    bf16_tflops: Annotated[float, Meta(gt=0)] | None = None
    """Peak of dense matrix products in bf16 that accumulate in float32, in 10^12 FLOP/s."""
    memory_bandwidth: Annotated[float, Meta(gt=0)] | None = None
    """Peak of the GPU's memory, in 10^9 bytes/s."""
    match: list[str] = field(default_factory=list)
    """Whole words of the NVML name that identify it."""

    @property
    def bytes(self) -> int:
        return int(self.memory * 2**30)


class _List(Struct, forbid_unknown_fields=True, frozen=True):
    """The content of a price list."""

    gpu: list[Gpu] = field(default_factory=list)


def own_file() -> Path:
    """The user's own list: `$XDG_CONFIG_HOME/ftbench/gpus.toml`."""
    return config_file().parent / "gpus.toml"


def list_gpus() -> list[Gpu]:
    """Every listed GPU, the smallest first; an own entry hides a shipped one of the same name.

    Raises UserError for a list that cannot be read.
    """
    gpus: dict[str, Gpu] = {}
    for path in (shipped_folder() / "gpus.toml", own_file()):
        if not path.is_file():
            continue
        try:
            content = msgspec.convert(tomli.loads(read_small(path).decode()), _List)
        except (OSError, ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
            reason = error.strerror if isinstance(error, OSError) else error
            problem, hint = f"invalid GPU price list ({reason})", f"see {shipped_folder() / 'gpus.toml'} for an example"
            raise UserError(problem, str(path), hint, code="gpu.invalid_list") from error
        gpus |= {gpu.name: gpu for gpu in content.gpu}
    return sorted(gpus.values(), key=lambda gpu: (gpu.memory, gpu.name))


def find_gpu(nvml_name: str, gpus: list[Gpu]) -> Gpu | None:
    """The listed GPU for an NVML name; None where it is not listed. The longest match wins."""
    matches = [
        (len(part), gpu)
        for gpu in gpus
        for part in [gpu.name, *gpu.match]
        if re.search(rf"(?<!\w){re.escape(part)}(?!\w)", nvml_name)  # L4 is no part of L40S
    ]
    return max(matches, key=lambda pair: pair[0])[1] if matches else None


def select_gpu(wanted: str, gpus: list[Gpu]) -> Gpu:
    """The listed GPU for a user's "a100", "RTX4090" or "H100 80GB".

    Raises UserError where no GPU matches, with the nearest name, or several do.
    """
    words = _words(wanted)
    ways = [(gpu, _ways_to_match(words, gpu)) for gpu in gpus] if words else []
    for way in range(4):
        matching = [gpu for gpu, matches in ways if matches[way]]
        if len(matching) == 1:
            return matching[0]
        if matching:
            several = ", ".join(gpu.name for gpu in matching)
            problem = f"ambiguous GPU name {wanted!r} ({several})"
            raise UserError(problem, "--gpu", "use more of the name", code="gpu.ambiguous_name")
    near = {form: gpu.name for gpu in gpus for form in (*_gpu_words(gpu), "".join(_words(gpu.name)))}
    close = difflib.get_close_matches("".join(words), near, n=1)
    suggestion = f"did you mean {near[close[0]]}?" if close else f"use one of {', '.join(gpu.name for gpu in gpus)},"
    hint = f"{suggestion} or add it to {own_file()}"
    raise UserError(f"unknown GPU {wanted!r}", "--gpu", hint, code="gpu.unknown")


def _ways_to_match(words: list[str], gpu: Gpu) -> tuple[bool, bool, bool, bool]:
    """Whether a GPU matches, from the strictest way to the loosest: the words are its complete name, words of it, the
    beginnings of its words, or, without spaces, a part of it.
    """
    joined, names = "".join(words), {"".join(_words(name)) for name in (gpu.name, *gpu.match)}
    own = _gpu_words(gpu)
    begin = all(any(name.startswith(word) for name in own) for word in words)
    return joined in names, set(words) <= own, begin, any(joined in name for name in names)


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in ("nvidia", "geforce")]


def _gpu_words(gpu: Gpu) -> set[str]:
    return {word for name in (gpu.name, *gpu.match) for word in _words(name)}
