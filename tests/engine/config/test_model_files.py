"""A model's config.json is found where the engine and huggingface_hub find it, without loading anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import try_to_load_from_cache
from imported import HEAVY, loaded_by

from engine.assets import tiny_folder
from engine.config.catalog import pulled_folder
from engine.config.home import hub_cache_is_chosen
from engine.config.model_files import find_model, hub_cache
from engine.config.schema import Model

TABLE = {"model_type": "llama", "hidden_size": 64}


def config_in(folder: Path, text: str = json.dumps(TABLE)) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)
    return folder


def cached(hub: str, commit: str, branch: str = "main") -> Path:
    """A model in the Hub cache."""
    folder = hub_cache() / f"models--{hub.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / branch).write_text(commit)
    return config_in(folder / "snapshots" / commit)


def test_it_imports_nothing_heavy() -> None:
    assert not loaded_by("import engine.config.model_files, tui.preview.method_estimate") & set(HEAVY)


def test_the_embedded_model_is_in_the_assets() -> None:
    files = find_model(Model(id="tiny"))
    assert files.folder == tiny_folder() and files.table and files.table["hidden_size"]


def test_a_catalog_model_is_found_once_pulled_or_cached() -> None:
    model = Model(id="smollm2-135m")
    assert find_model(model).fetch == "HuggingFaceTB/SmolLM2-135M-Instruct"
    snapshot = cached("HuggingFaceTB/SmolLM2-135M-Instruct", "c0ffee")
    assert find_model(model).folder == snapshot
    pulled = config_in(pulled_folder("smollm2-135m"))
    assert find_model(model).folder == pulled


@pytest.mark.parametrize("revision", [None, "main", "v2", "abcdef"])
def test_the_hub_cache_is_read_as_its_own_library_reads_it(revision: str | None) -> None:
    cached("owner/name", "abcdef", "main" if revision != "v2" else "v2")
    files = find_model(Model(id="owner/name", revision=revision))
    theirs = try_to_load_from_cache("owner/name", "config.json", cache_dir=hub_cache(), revision=revision)
    assert files.folder and str(files.folder / "config.json") == theirs
    assert files.table == TABLE


def test_the_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/a/hub")
    monkeypatch.setenv("HUGGINGFACE_HUB_CACHE", "/former")
    assert hub_cache() == Path("/a/hub")
    monkeypatch.delenv("HF_HUB_CACHE")
    assert hub_cache() == Path("/former") and hub_cache_is_chosen()
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", "/b")
    assert hub_cache() == Path("/b/hub")
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert hub_cache() == Path("/c/huggingface/hub")


def test_an_unknown_configuration_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    gguf = find_model(Model(id=str(tmp_path / "m.gguf")))
    assert gguf.table is None and "GGUF" in gguf.why and not gguf.wrong
    absent = find_model(Model(id="owner/absent"))
    assert absent.fetch == "owner/absent" and "HF_HUB_OFFLINE" in absent.wrong


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "cannot read"), ("[" * 100_000, "cannot read"), ("[]", "not an object"), (None, "no config")],
)
def test_a_broken_folder_is_no_crash(text: str | None, why: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    if text is not None:
        (folder / "config.json").write_text(text)
    files = find_model(Model(id=str(folder)))
    assert files.table is None and why in files.why and files.wrong
