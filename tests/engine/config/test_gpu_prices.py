"""GPU prices: the shipped list and the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config import gpu_prices
from engine.config.errors import UserError
from engine.config.files import MAX_SETTINGS_BYTES


def own(text: str, name: str = "gpus") -> None:
    folder = Path(os.environ["XDG_CONFIG_HOME"]) / "ftbench"
    folder.mkdir(parents=True)
    (folder / f"{name}.toml").write_text(text)


@pytest.mark.parametrize(
    ("nvml", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 80GB"),
        ("NVIDIA L40S", "L40S 48GB"),
        ("NVIDIA L4", "L4 24GB"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090 24GB"),
        ("2 CPU cores", None),
        ("NVIDIA A100-SXM4-40GB", None),
    ],
)
def test_a_gpu_is_found_by_its_nvml_name(nvml: str, name: str | None) -> None:
    gpu = gpu_prices.find_gpu(nvml, gpu_prices.list_gpus())
    assert (gpu.name if gpu else None) == name


def test_an_own_price_hides_the_shipped_one() -> None:
    entry = 'name = "A100 80GB"\nmatch = ["A100"]\nmemory = 79.2\nprice_per_hour = 1.1\ncurrency = "EUR"\n'
    own(f"[[gpu]]\n{entry}")
    (mine,) = [gpu for gpu in gpu_prices.list_gpus() if gpu.name == "A100 80GB"]
    assert (mine.price_per_hour, mine.currency) == (1.1, "EUR")


@pytest.mark.parametrize(
    "text",
    [
        *("gpu = 3", "[[gpu]]\nname = 'x'\nmemory = -1\nprice_per_hour = 1", "[[gpu]\n", "[[gpus]]\n"),
        *(f"gpu = {'[' * 10_000}", "#" * (MAX_SETTINGS_BYTES + 1)),
    ],
)
def test_a_broken_list_is_one_line(text: str) -> None:
    own(text)
    with pytest.raises(UserError) as error:
        gpu_prices.list_gpus()
    assert error.value.code == "gpu.invalid_list" and "\n" not in error.value.line
