"""Models of a chat session: one copy of each base, adapters switched by key, defects found by logits."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import peft
import pytest
import torch
from made_models import made_model
from safetensors.torch import load_file, save_file

from engine.assets import tiny_folder
from engine.config.errors import UserError
from engine.extensions.chat.models import (
    BASE,
    BASE_4BIT,
    PROBE,
    TOLERANCE,
    BaseCopy,
    ChatRun,
    LoadedModels,
    largest_difference,
    logits_of,
    tried_run,
    verify,
)
from engine.methods import method
from engine.methods.machine import this_machine
from engine.runs.run.folder import short_name
from engine.runs.run.run_dir import RunDir


def load(runs: list[RunDir], with_base: bool = True) -> LoadedModels:
    return LoadedModels([tried_run(run.path) for run in runs], this_machine(), lambda text: None, with_base)


def key(run: RunDir) -> str:
    return short_name(run.name)


def codes(loaded: LoadedModels) -> list[str]:
    return [notice.code for notice in loaded.notices]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RunDir]]:
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTBENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield {
            "lora": made_model(folder, "lora", 1),
            "other": made_model(folder, "lora", 2),
            "qlora": made_model(folder, "qlora", 3),
            "full": made_model(folder, "full", 4),
        }


@pytest.fixture(scope="module")
def loaded(made: dict[str, RunDir]) -> LoadedModels:
    return load([made["full"], made["lora"], made["other"], made["qlora"]])


def test_adapters_of_one_base_share_one_copy(loaded: LoadedModels, made: dict[str, RunDir]) -> None:
    base, lora, other = (loaded.responders[name] for name in (BASE, key(made["lora"]), key(made["other"])))
    assert base.copy is lora.copy is other.copy
    assert loaded.responders[key(made["qlora"])].copy is not base.copy
    weights = [module.base_layer.weight for module in base.copy.network.modules() if hasattr(module, "base_layer")]
    plain = method("lora").load(tried_run(made["lora"].path).config, this_machine())
    copies = sum(parameter.shape == weights[0].shape for parameter in base.copy.network.parameters())
    assert copies == sum(parameter.shape == weights[0].shape for parameter in plain.parameters())
    parts = {part.name: part for part in loaded.memory().parts}
    assert parts[BASE].bytes == sum(tensor.nbytes for tensor in [*plain.parameters(), *plain.buffers()])
    assert (parts[BASE].adapters, parts[BASE_4BIT].adapters, parts["Full"].adapters) == (2, 1, 0)
    size = sum(tensor.nbytes for tensor in load_file(made["lora"].model / "adapter_model.safetensors").values())
    assert parts[BASE].adapter_bytes == 2 * size and parts[BASE_4BIT].bytes < parts[BASE].bytes / 2
    assert loaded.memory().process > 50 << 20


def test_columns_come_in_the_given_order_after_the_base(loaded: LoadedModels, made: dict[str, RunDir]) -> None:
    names = ("full", "lora", "other", "qlora")
    assert list(loaded.responders) == [BASE, *(key(made[name]) for name in names)]
    titles = [responder.column.title for responder in loaded.responders.values()]
    ends = [made[name].name[-4:] for name in ("lora", "other")]
    assert titles == ["base", "Full", f"LoRA {ends[0]}", f"LoRA {ends[1]}", "QLoRA"]
    assert codes(loaded) == []


def test_every_column_is_the_model_that_it_names(loaded: LoadedModels, made: dict[str, RunDir]) -> None:
    """Against each model loaded alone."""
    machine = this_machine()
    prompt = loaded.responders[BASE].encoder.ids(PROBE)
    for name in (key(made["other"]), BASE, key(made["qlora"]), key(made["full"]), key(made["lora"]), BASE):
        responder = loaded.responders[name]
        config = tried_run((made["lora"] if name == BASE else run_of(made, name)).path).config
        alone = method(config.method).load(config, machine)
        if responder.adapter:
            alone = peft.PeftModel.from_pretrained(alone, str(run_of(made, name).model))
        elif name != BASE:
            alone.load_state_dict(load_file(run_of(made, name).model / "model.safetensors"), strict=False)
            alone.tie_weights()
        expected = logits_of(alone.eval(), prompt, machine.device)
        network = responder.copy.activate(responder.adapter)
        assert largest_difference(logits_of(network, prompt, machine.device), expected) < 1e-5


def run_of(made: dict[str, RunDir], name: str) -> RunDir:
    return next(run for run in made.values() if key(run) == name)


def test_without_adapters_the_base_is_loaded_for_a_full_run(made: dict[str, RunDir]) -> None:
    loaded = load([made["full"]])
    assert list(loaded.responders) == [BASE, key(made["full"])] and codes(loaded) == []
    alone = load([made["full"]], with_base=False)
    assert list(alone.responders) == [key(made["full"])] and len(alone.copies) == 1
    assert next(iter(load([made["qlora"]]).responders)) == BASE_4BIT


def test_an_adapter_without_effect_is_reported(tmp_path: Path) -> None:
    run = made_model(tmp_path / "runs", "lora", scale=0)
    assert codes(load([run])) == ["chat.adapter_inactive"]
    full = made_model(tmp_path / "runs", "full", scale=0)
    assert codes(load([full])) == ["chat.full_is_base"]


def test_a_base_that_an_adapter_was_merged_into_is_reported(made: dict[str, RunDir]) -> None:
    run: ChatRun = tried_run(made["lora"].path)
    copy = BaseCopy(BASE, method("lora").load(run.config, this_machine()))
    before = logits_of(copy.network, [5, 6, 7, 8], "cpu")
    copy.attach("one", run.directory.model)
    assert verify(copy, before, [5, 6, 7, 8], "cpu", {"one": "LoRA"}) == []
    first = next(module for module in copy.network.modules() if hasattr(module, "base_layer"))
    first.base_layer.weight.data += 0.1 * torch.randn_like(first.base_layer.weight)
    (defect,) = verify(copy, before, [5, 6, 7, 8], "cpu", {"one": "LoRA"})
    assert defect.code == "chat.base_changed" and largest_difference(before, before + 1) > TOLERANCE


def test_a_changed_base_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_folder(), base)
    run = made_model(tmp_path / "runs", "lora", **{"model.id": str(base)})
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 0.01
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as refused:
        tried_run(run.path)
    assert refused.value.code == "export.base_changed"


def test_an_unfinished_run_and_a_run_without_a_model_are_refused(made: dict[str, RunDir], tmp_path: Path) -> None:
    for name, code in (("result.json", "chat.not_finished"), ("model", "chat.no_model")):
        copy = RunDir(Path(shutil.copytree(made["lora"].path, tmp_path / name)))
        shutil.rmtree(copy.model)
        if name == "result.json":
            copy.result_file.unlink()
        with pytest.raises(UserError) as refused:
            tried_run(copy.path)
        assert refused.value.code == code


def test_a_run_whose_data_is_gone_still_answers(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    run = made_model(tmp_path / "runs", "lora", **{"data.id": str(data)})
    data.unlink()
    loaded = load([run])
    assert codes(loaded) == ["chat.no_data"] and "data.jsonl" in loaded.notices[0].text
    assert loaded.responders[BASE].ends
