"""The models that can be selected: catalog, Hugging Face cache, folders, .gguf files, and what is known of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.model_files import describe_model, hub_cache, list_models

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2}
CARD = "---\nlanguage: en\nlicense: apache-2.0\n---\n# Small\nlicense: not this one\n"


def model_folder(folder: Path, size: int = 1000, weights: str = "model.safetensors") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / weights).write_bytes(b"\0" * size)
    (folder / "README.md").write_text(CARD)
    return folder


def cached(name: str, size: int = 2000) -> None:
    """A model as huggingface_hub stores it: links to files that are named by their hash."""
    repository = hub_cache() / f"models--{name.replace('/', '--')}"
    snapshot = model_folder(repository / "snapshots" / "abc", size)
    (repository / "blobs").mkdir()
    (snapshot / "model.safetensors").rename(repository / "blobs" / "hash")
    (snapshot / "model.safetensors").symlink_to("../../blobs/hash")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")


def test_the_embedded_model_and_the_catalog_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    models = list_models(tmp_path)
    assert [model.id for model in models] == ["tiny", *CATALOG]
    assert (models[0].origin, models[0].requires_network) == ("embedded", False)
    assert (models[1].origin, models[1].requires_network, models[1].license) == ("catalog", True, "Apache-2.0")
    assert models[1].architecture == "llama" and models[1].bytes is None


def test_catalog_models_that_have_to_be_downloaded_are_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    mine = model_folder(tmp_path / "mine")
    model_folder(pulled_folder("qwen3-8b"))
    names = [model.id for model in list_models(tmp_path, ["team/other"])]
    absent = [name for name in CATALOG if name != "qwen3-8b"]
    assert names == ["tiny", "qwen3-8b", str(mine), "team/other", *absent]


def test_a_gated_model_of_the_catalog_is_marked() -> None:
    assert describe_model("llama-3.2-1b").gated and not describe_model("qwen3-8b").gated


def test_folders_gguf_files_recent_and_cached_models_are_listed(tmp_path: Path) -> None:
    mine = model_folder(tmp_path / "mine")
    deep = model_folder(tmp_path / "models" / "deep")
    (tmp_path / "small.gguf").write_bytes(b"GGUF1234")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    pickled = model_folder(tmp_path / "pickled", weights="pytorch_model.bin")
    cached("team/small")
    models = {model.id: model for model in list_models(tmp_path, ["team/other"])}
    assert set(models) == {
        "tiny",
        *CATALOG,
        str(mine),
        str(deep),
        str(tmp_path / "small.gguf"),
        "team/other",
        "team/small",
    }
    assert str(pickled) not in models
    local = models[str(mine)]
    assert (local.origin, local.label, local.bytes, local.license) == ("folder", "mine", 1000, "apache-2.0")
    assert local.architecture == "llama" and local.modified
    gguf = models[str(tmp_path / "small.gguf")]
    assert (gguf.origin, gguf.bytes, gguf.requires_network) == ("GGUF file", 8, False)
    small = models["team/small"]
    assert (small.origin, small.bytes, small.license, small.requires_network) == ("HF cache", 2000, "apache-2.0", False)
    assert models["team/other"].recent and models["team/other"].files.fetch == "team/other"


def test_a_folder_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    model_folder(tmp_path / "mine")
    (tmp_path / "broken.gguf").symlink_to("nowhere")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"\0")
    names = [model.label for model in list_models(tmp_path)]
    assert "mine" in names and "damaged" in names and "broken.gguf" not in names
    damaged = describe_model(str(tmp_path / "damaged"))
    assert damaged.files.wrong and damaged.architecture == ""
