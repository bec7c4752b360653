"""Other tools' configurations as presets: every key is accounted for, nothing is executed or followed."""

from __future__ import annotations

import contextlib
import json
import time
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
from engine.extensions.preset_import.other_tools import NoCounterpart, OtherTool

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


TOOLS = (other_tools.AXOLOTL, other_tools.LLAMA_FACTORY, other_tools.TRL, other_tools.PEFT)


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


@pytest.mark.parametrize("tool", ["base_model: {}", "stage: sft\nmodel_name_or_path: {}", "model_name_or_path: {}"])
def test_aliases_are_refused_before_they_stand_for_gigabytes(tool: str, tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    for text in ("\n".join([*lines, tool.format("*a11")]), f"loop: &l [*l]\n{tool.format('a/b')}"):
        with pytest.raises(UserError) as refused:
            imported(tmp_path, text)
        assert refused.value.code == "import.invalid" and "alias" in refused.value.problem
    assert "line 2" in refused.value.problem or "line 1" in refused.value.problem


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_what_is_not_a_text_is_refused_before_it_is_worded(tool: OtherTool) -> None:
    """Of every setting: `str` of a nested value may take gigabytes, and `str` of a number is no name."""

    class Unspeakable(list[Any]):
        def __repr__(self) -> str:
            raise AssertionError("worded")

    for key, (setting, convert) in tool.settings.items():
        for value in (Unspeakable(), {"a": Unspeakable()}, Unspeakable(["x", Unspeakable()])):
            with contextlib.suppress(NoCounterpart):
                assert convert(value) == [] and setting == "adapter.target_modules", key


@pytest.mark.parametrize("key", ["quantization_bit", "finetuning_type", "load_in_4bit", "adapter"])
def test_a_method_that_is_not_a_word_is_not_worded(key: str, tmp_path: Path) -> None:
    table = {"model_name_or_path": "a/b", "use_peft": True, key: [["x" * 99] * 99] * 99}
    try:
        assert len(str(imported(tmp_path, json.dumps(table), "file.json"))) < 5000
    except UserError as error:
        assert len(error.line) < 500


def many_keys(kind: str) -> tuple[str, str]:
    pairs = [f"key{number}" for number in range(20_000)]
    if kind == "json":
        return json.dumps({"base_model": "a/b"} | dict.fromkeys(pairs, 1)), "file.json"
    if kind == "command":
        return "trl sft --model_name_or_path a/b " + " ".join(f"--{key} 1" for key in pairs), "file.sh"
    if kind == "values":
        return "trl sft --model_name_or_path a/b --lora_target_modules " + " ".join(pairs), "file.sh"
    indent = "datasets:\n- path: a/b\n  " if kind == "nested" else ""
    return f"base_model: a/b\n{indent}" + ("\n  " if indent else "\n").join(f"{key}: 1" for key in pairs), "file.yaml"


@pytest.mark.parametrize("kind", ["yaml", "nested", "json", "command", "values"])
def test_the_time_grows_with_the_number_of_keys_not_with_its_square(kind: str, tmp_path: Path) -> None:
    """20,000 keys in at most a second of CPU time."""
    text, name = many_keys(kind)
    before = time.process_time()
    assert len(imported(tmp_path, text, name).keys) > (10 if kind == "values" else 20_000)
    assert time.process_time() - before < 1.0


def test_long_keys_are_cut_and_long_numbers_refused(tmp_path: Path) -> None:
    result = imported(tmp_path, json.dumps({"base_model": "a/b", "k" * 5000: 1, "save_" + "k" * 5000: 1}), "file.json")
    assert {len(key.key) for key in result.keys if "kkk" in key.key} == {80} == {len(result.without_effect[-1])}
    for number in ("1" + ":20" * 100_000, "1" + ":20" * 100_000 + ".5", "0x" + "f" * 100_000):  # base 60, base 16
        assert code(tmp_path, f"base_model: a/b\nseed: {number}") == "import.invalid"


SECRET = "hunter2hunter2"


@pytest.mark.parametrize(
    "text",
    [f"{SECRET}:\n  - [", f"{SECRET}: 1\n{SECRET}: 2", f"{SECRET}: *{SECRET}", f"%{SECRET} 1\n", f"!{SECRET}!x y",
     f"{SECRET}: 'x", f"{SECRET}: 1\n\t{SECRET}", f"{SECRET}", f"{SECRET}: 1", f"- {SECRET}", f"{SECRET}: 2020-13-45",
     f"run --{SECRET} 1 --{SECRET} 2", f"run --{SECRET} '", f"{SECRET}: 1\n? [{SECRET}]\n: 2", f"{SECRET}\0",
     f"{SECRET}: {SECRET}: {SECRET}", f'{{"{SECRET}": 1, "{SECRET}": 2}}', f"{SECRET}: @{SECRET}"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["file.yaml", "file.json"])
def test_no_line_of_another_file_is_quoted(text: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        imported(tmp_path, text, name)
    assert SECRET not in refused.value.line and refused.value.code in ("import.invalid", "import.unknown_tool")


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
