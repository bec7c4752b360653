"""Exports of a run on a multimodal model are served as the original is: its names, its tower, its other heads."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from local_checker import LocalChecker
from made_models import made_model
from model_shapes import qwen3_5
from safetensors.torch import load_file, save_file

from engine.assets import tiny_folder
from engine.config.errors import RunFailed
from engine.export.exporter import export
from engine.export.request import ExportRequest
from engine.runs.run.exports import Fidelity
from engine.runs.run.run_dir import RunDir

SETTINGS = {"train.steps": 40, "evaluation.rows": 3, "evaluation.max_new_tokens": 4, "data.validation": 0.01}
EXTRA = {"mtp.fc.weight": torch.ones(4, 8), "mtp.layers.0.norm.weight": torch.zeros(8)}
TOWER = "model.visual."


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Qwen3.5 with tower and head for multi-token prediction, as it is published."""
    folder = tmp_path_factory.mktemp("base")
    tokens = {"vocab_size": 3072, "eos_token_id": 2, "tie_word_embeddings": True}
    config = qwen3_5(**tokens, max_position_embeddings=1024)
    config.tie_word_embeddings = True
    torch.manual_seed(0)
    transformers.AutoModelForMultimodalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    save_file(load_file(folder / "model.safetensors") | EXTRA, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(tiny_folder() / name, folder / name)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module", params=["lora", "full"])
def run(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    values = {**SETTINGS, "model.id": str(base)}
    return made_model(tmp_path_factory.mktemp(request.param), request.param, **values)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("engine.export.exporter.Checker", LocalChecker)
    yield


def exported(run: RunDir, kind: str, folder: Path) -> Fidelity:
    request = ExportRequest(run, kind, "f32" if kind == "merged" else None, folder, 1.0)
    return export(request, lambda *_: None)[1]


def run_card(card: str, **values: str) -> Any:
    """Run the code of a model card, which loads the artifact and answers a prompt; returns the model."""
    code = card.split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"PROMPT": "The printer on floor 2 is out of paper", "SYSTEM_PROMPT": "", **values}
    exec(code, names)
    assert names["answer"].shape[1] > names["inputs"]["input_ids"].shape[1]
    return names["model"]


def test_a_merged_model_is_served_as_its_base_is(run: RunDir, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "merged"
    check = exported(run, "merged", folder)
    original, merged = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert check.defects == [] and check.vllm_names is True and check.copied["mtp"] == len(EXTRA)
    assert check.largest_logit_difference is not None and check.largest_logit_difference < 1e-4
    assert {name: t.shape for name, t in merged.items()} == {name: t.shape for name, t in original.items()}
    same = [name for name in original if torch.equal(original[name], merged[name])]
    assert set(same) >= {name for name in original if name.startswith((TOWER, "mtp."))} and len(same) < len(original)
    card = (folder / "README.md").read_text()
    assert str(base.parent) not in card and base.name in card and "train.epochs" not in card
    assert run_card(card, FOLDER=str(folder)).config.architectures == ["Qwen3_5ForConditionalGeneration"]
    assert {oct(path.stat().st_mode & 0o777) for path in folder.iterdir()} == {"0o644"}
    assert folder.stat().st_mode & 0o777 == 0o755
    assert "writing weights" in (run.path / "exports" / "merged-f32.log").read_text()
    was, now = (json.loads((model_folder / "config.json").read_text()) for model_folder in (base, folder))
    assert was == now and (folder / "preprocessor_config.json").exists()
    _, info = transformers.AutoModelForMultimodalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))

    # As a class for text alone saves it: a server would initialize the weights at random.
    text = {name.replace("model.language_model.", "model."): merged[name] for name in merged if TOWER not in name}
    save_file(text, folder / "model.safetensors", metadata={"format": "pt"})
    checker = LocalChecker(run, tmp_path, lambda *_: None)
    checker.check("run")
    codes = {defect.code for defect in checker.check("merged", folder).defects}
    assert codes >= {"export.missing_weights", "export.unexpected_weights", "export.vllm_names"}


@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_an_adapter_finds_its_places_in_the_base(run: RunDir, base: Path, tmp_path: Path) -> None:
    check = exported(run, "adapter", tmp_path / "adapter")
    assert check.defects == [] and check.largest_logit_difference is not None and check.vllm_names is True
    assert check.largest_logit_difference < 1e-4
    card = (tmp_path / "adapter" / "README.md").read_text()
    assert "dtype=torch.float32" in card
    model = run_card(card, FOLDER=str(tmp_path / "adapter"), BASE=str(base))
    assert any("lora_B" in name for name, _ in model.named_parameters())


@pytest.mark.parametrize("run", ["lora"], indirect=True)
def test_a_run_that_is_removed_while_it_is_exported_ends_in_one_line(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = RunDir(Path(shutil.copytree(run.path, tmp_path / run.name)))
    monkeypatch.setattr(LocalChecker, "check", lambda *_, **__: shutil.rmtree(copy.path))
    for folder in (tmp_path / "out", copy.path / "exports" / "adapter"):
        with pytest.raises(RunFailed) as caught:
            exported(copy, "adapter", folder)
        assert caught.value.code == "export.run_removed" and "\n" not in str(caught.value)
        assert not folder.exists() and [path for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []
        shutil.copytree(run.path, copy.path, dirs_exist_ok=True)
