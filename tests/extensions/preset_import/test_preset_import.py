"""Other tools' configurations as presets: every key is accounted for, nothing is executed or followed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from command import ftbench
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engine.config.errors import UserError
from engine.extensions.preset_import import other_tools
from engine.extensions.preset_import.imported import ImportedPreset, import_preset

AXOLOTL = """
base_model: acme/Model-8B
load_in_4bit: true
adapter: qlora
datasets:
  - path: acme/mails
    type: alpaca
sequence_len: 4096
sample_packing: true
lora_r: 32
lora_alpha: 16
lora_target_linear: true
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: paged_adamw_32bit
learning_rate: 2e-4
trust_remote_code: true
warmup_steps: 10
output_dir: ./out
"""
LLAMA_FACTORY = """
model_name_or_path: acme/Model-8B
stage: sft
finetuning_type: lora
quantization_bit: 4
lora_target: q_proj,v_proj
dataset: identity,alpaca_en_demo
template: llama3
max_steps: 200
warmup_steps: 20
per_device_train_batch_size: 1
gradient_accumulation_steps: 8
"""
LLAMA_FACTORY_1 = """
model: acme/Model-8B
model_class: llm
peft_config: {name: lora, r: 16, lora_alpha: 8, target_modules: all}
quant_config: {name: bnb, quantization_bit: 4}
train_dataset: data/rows.yaml
micro_batch_size: 2
"""
TRL_COMMAND = """#!/bin/sh
trl sft --model_name_or_path acme/Model-8B --dataset_name acme/mails \\
  --use_peft --lora_target_modules q_proj v_proj --max-length=512 --learning_rate 1e-4
"""
PEFT = {"peft_type": "LORA", "base_model_name_or_path": "acme/Model-8B", "r": 4, "lora_alpha": 32,
        "target_modules": ["q_proj"], "inference_mode": True, "modules_to_save": None}  # fmt: skip


def imported(tmp_path: Path, text: str, name: str = "file.yaml", **overrides: Any) -> ImportedPreset:
    (tmp_path / name).write_text(text)
    return import_preset(tmp_path / name, {"model.id": "tiny"} | overrides if overrides else None)


def outcomes(result: ImportedPreset) -> dict[str, str]:
    return {key.key: key.outcome for key in result.keys}


def code(tmp_path: Path, text: str, name: str = "file.yaml") -> str:
    with pytest.raises(UserError) as refused:
        imported(tmp_path, text, name)
    return refused.value.code


def test_axolotl(tmp_path: Path) -> None:
    result = imported(tmp_path, AXOLOTL)
    assert result.values == {
        "method": "qlora", "model.id": "acme/Model-8B", "data.id": "acme/mails", "data.validation": 0.0,
        "train.max_length": 4096, "train.batch": 8, "train.epochs": 4, "train.learning_rate": 2e-4,
        "train.schedule": "cosine", "train.warmup_ratio": 0.0, "train.weight_decay": 0.0, "train.max_grad_norm": 1.0,
        "train.seed": 42, "optimizer.name": "adamw", "adapter.rank": 32, "adapter.alpha": 16, "adapter.dropout": 0.0,
        "adapter.target_modules": "all-linear",
    }  # fmt: skip
    said = outcomes(result)
    assert said["optimizer"] == "changed" and said["trust_remote_code"] == said["warmup_steps"] == "left out"
    assert result.without_effect == ["output_dir"]


@pytest.mark.parametrize(("wrong", "right"), [("warmup_steps", "max_steps"), ("max_steps", "warmup_steps")])
def test_of_steps_and_warmup_only_the_invalid_one_is_left_out(wrong: str, right: str, tmp_path: Path) -> None:
    result = imported(tmp_path, f"base_model: acme/Model-8B\nadapter: lora\n{wrong}: many\n{right}: 20\n")
    said = {key: outcome for key, outcome in outcomes(result).items() if key.startswith(("max_steps", "warmup_steps"))}
    kept = {"max_steps": "taken", "warmup_steps": "left out"}  # the number of steps depends on the data
    assert said == {wrong: "left out", right: kept[right]}
    assert ("train.steps" in result.values) == (right == "max_steps")


def test_a_command_in_a_comment_is_not_the_configuration(tmp_path: Path) -> None:
    comment = "# accelerate launch -m axolotl.cli.train --debug\n\n  # see the manual\n"
    assert imported(tmp_path, comment + AXOLOTL).values == imported(tmp_path, AXOLOTL).values
    script = TRL_COMMAND.partition("\n")[2]
    assert imported(tmp_path, "# mails\n" + script, "run.sh").values == imported(tmp_path, TRL_COMMAND, "run.sh").values


def test_modules_may_be_separated_by_commas_and_spaces(tmp_path: Path) -> None:
    text = "base_model: acme/Model-8B\nadapter: lora\nlora_target_modules: q_proj, v_proj\n"
    assert imported(tmp_path, text).values["adapter.target_modules"] == ["q_proj", "v_proj"]


def test_a_file_of_llama_factory_without_an_adapter_is_refused(tmp_path: Path) -> None:
    """Its methods all have a name; only for axolotl and TRL no adapter means full fine-tuning."""
    for value in ("false", "none"):
        assert code(tmp_path, f"stage: sft\nmodel_name_or_path: a/b\nfinetuning_type: {value}\n") == "import.method"
    assert code(tmp_path, "base_model: a/b\nadapter: none\n") == "import.method"
    assert imported(tmp_path, "base_model: a/b\nadapter: false\n").values["method"] == "full"


def test_llama_factory(tmp_path: Path) -> None:
    values = imported(tmp_path, LLAMA_FACTORY).values
    assert (values["method"], values["adapter.rank"], values["adapter.alpha"]) == ("qlora", 8, 16)
    assert values["adapter.target_modules"] == ["q_proj", "v_proj"] and "data.id" not in values
    assert (values["train.steps"], values["train.warmup_ratio"], values["train.batch"]) == (200, 0.1, 8)
    assert "train.epochs" not in values and values["train.learning_rate"] == 5e-5
    values = imported(tmp_path, LLAMA_FACTORY_1).values
    assert (values["method"], values["adapter.rank"], values["adapter.alpha"], values["train.batch"]) == (
        "qlora", 16, 8, 2
    )  # fmt: skip


def test_arguments_of_trl(tmp_path: Path) -> None:
    values = imported(tmp_path, TRL_COMMAND, "train.sh").values
    assert (values["method"], values["train.max_length"], values["data.id"]) == ("lora", 512, "acme/mails")
    assert values["adapter.target_modules"] == ["q_proj", "v_proj"] and values["adapter.dropout"] == 0.05
    assert (values["train.learning_rate"], values["train.batch"]) == (1e-4, 8)


def test_the_adapter_of_peft(tmp_path: Path) -> None:
    result = imported(tmp_path, json.dumps(PEFT), "adapter_config.json")
    assert result.values["adapter.rank"] == 4 and result.values["adapter.alpha"] == 32
    assert set(result.without_effect) == {"inference_mode", "modules_to_save"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base_model: acme/m\nlearning_rate: 1e-4\nrl: dpo", "import.not_sft"),
        ("model_name_or_path: a/b\nstage: kto", "import.not_sft"),
        ("model_name_or_path: a/b\nfinetuning_type: oft", "import.method"),
        ("compute_environment: LOCAL_MACHINE", "import.unknown_tool"),
        ("- base_model", "import.unknown_tool"),
        ("base_model: /models/secret", "import.no_model"),
        ("base_model: a/b\nbase_model: c/d", "import.invalid"),
        ("base_model: [", "import.invalid"),
        ("[" * 5000, "import.invalid"),
    ],
)
def test_what_is_not_supervised_fine_tuning_or_not_readable_is_refused(
    text: str, expected: str, tmp_path: Path
) -> None:
    assert code(tmp_path, text) == expected


def test_tags_paths_flags_and_secrets_are_listed_and_nothing_runs(tmp_path: Path) -> None:
    witness = tmp_path / "executed"
    text = f"""
base_model: acme/m
seed: !!python/object/apply:os.system ["touch {witness}"]
chat_template: !include /etc/passwd
datasets: [{{path: /etc/passwd}}]
lora_model_dir: /etc
trust_remote_code: true
plugins: [evil.module]
hf_token: hf_abcdefghijklmnopqrstuvwxyz
"""
    result = imported(tmp_path, text)
    said = outcomes(result)
    for key in ("seed", "chat_template", "datasets[0].path", "lora_model_dir", "trust_remote_code", "plugins"):
        assert said[key] == "left out"
    assert not witness.exists() and "abcdefghijklm" not in str(result)
    assert set(result.values) & {"data.id", "model.from_run", "train.seed"} == set()


def test_a_value_without_an_exact_counterpart_does_not_replace_that_of_another_key(tmp_path: Path) -> None:
    result = imported(tmp_path, "base_model: acme/m\noptim: adamw_8bit\noptimizer: paged_adamw_32bit")
    assert result.values["optimizer.name"] == "adamw_8bit"
    assert (outcomes(result)["optim"], outcomes(result)["optimizer"]) == ("taken", "left out")


def test_aliases_do_not_expand(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    result = imported(tmp_path, "\n".join(["base_model: acme/m", "loop: &l [*l]", *lines]))
    assert all(len(key.value) < 500 for key in result.keys)


TOOLS = (other_tools.AXOLOTL, other_tools.LLAMA_FACTORY, other_tools.TRL, other_tools.PEFT)
DECIDE = ("stage", "adapter", "finetuning_type", "use_peft", "peft_type", "load_in_4bit", "quantization_bit", "packing",
          "sample_packing", "max_steps", "warmup_steps", "batch_size", "peft_config", "lora_target_linear")  # fmt: skip
KEYS = sorted(
    {*(key for tool in TOOLS for key in (*tool.settings, *tool.batch) if key), *other_tools.NO_COUNTERPART, *DECIDE}
)
NESTED = ("peft_config", "quant_config", "lora_target_linear")  # read as other keys
TEXTS = st.one_of(st.text(max_size=20), st.sampled_from(["1e-4", "all", "lora", "cosine", "acme/m"]))
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    TEXTS,
    st.lists(TEXTS, max_size=3),
    st.dictionaries(TEXTS, st.integers(), max_size=2),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(table={"base_model": None, "packing": None, "micro_batch_size": True})
@given(table=st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=12)), ODD, max_size=12))
@pytest.mark.slow
def test_every_key_is_accounted_for_or_the_file_is_refused(table: dict[str, Any], tmp_path: Path) -> None:
    try:
        result = imported(tmp_path, yaml.safe_dump(table), **{"train.steps": 1})
    except UserError:
        return
    said = " ".join(key.key for key in result.keys)
    assert [key for key in table if key not in result.without_effect and key not in said and key not in NESTED] == []


def test_the_command_writes_a_preset_that_resolves(tmp_path: Path) -> None:
    (tmp_path / "my run.yaml").write_text(AXOLOTL)
    done = ftbench("presets", "import", str(tmp_path / "my run.yaml"), "--json")
    answer = json.loads(done.stdout)
    assert answer["name"] == "my-run" and answer["tool"] == "axolotl" and Path(answer["path"]).exists()
    shown = json.loads(ftbench("presets", "show", "my-run", "--json").stdout)
    assert shown["train.max_length"] == {"value": 4096, "origin": "preset my-run"}
    again = ftbench("presets", "import", str(tmp_path / "my run.yaml"))
    assert again.returncode == 2 and "exists" in again.stderr
    other = ftbench("presets", "import", str(tmp_path / "my run.yaml"), "--name", "other", "--set", "train.steps=5")
    assert other.returncode == 0 and "left out" in other.stdout and "ftbench run other" in other.stdout
