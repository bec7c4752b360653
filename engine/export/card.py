"""The model card of an artifact: where it comes from, what it scores, what it costs, how to load and serve it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

from engine.config.catalog import CATALOG
from engine.config.method_specs import method_spec
from engine.config.model_files import EMBEDDED, EMBEDDED_LICENSE
from engine.config.quantities import duration, money, size
from engine.config.schema import PRIVATE_KEYS
from engine.config.text import visible
from engine.export.export_source import ExportSource
from engine.export.format_modules import format_module
from engine.export.merged import plain_model, served_class
from engine.methods import method
from engine.methods.loading import auto_class
from engine.methods.machine import this_machine
from engine.methods.model_source import config_of, locate
from engine.methods.qlora import unquantized_patterns
from engine.runs.run.exports import Fidelity
from engine.runs.run.result import Result
from engine.runs.run.run_dir import FrozenRun, values_that_are_set
from engine.runs.score_format import base_fact, fidelity_facts

LIBRARIES = {"adapter": "peft", "merged": "transformers"}
"""Names that the Hub knows; extensions have their own."""
TITLES = {"adapter": "A PEFT adapter for", "merged": "A model fine-tuned from"}


def write_card(folder: Path, finished: ExportSource, fidelity: Fidelity) -> None:
    run, frozen, result = finished.directory, finished.frozen, finished.result
    config, model, score = frozen.config, frozen.config.model.id, fidelity.score
    on_hub = model if model.count("/") == 1 and not model.startswith((".", "/", "~")) else None
    license_name = EMBEDDED_LICENSE if model == EMBEDDED else "other"
    scores = []
    if score is not None and score.mean is not None:
        scores.append(
            EvalResult(
                task_type="text-generation",
                dataset_type="private" if "/" in config.data.id else config.data.id,
                dataset_name=Path(config.data.id).name,
                dataset_split="test",
                metric_type=fidelity.metric,
                metric_value=round(score.mean, 4),
                metric_args={"ci_95": [score.low, score.high], "items": score.rows},
            )
        )
    data = ModelCardData(
        license=(CATALOG[model].license if model in CATALOG else license_name).lower(),
        library_name=LIBRARIES.get(fidelity.kind) or format_module(fidelity.kind).LIBRARY,
        pipeline_tag="text-generation",
        tags=["ftbench", config.method],
        model_name=run.name,
        base_model=CATALOG[model].hub if model in CATALOG else on_hub,
        eval_results=scores or None,
    )

    # Settings that others can use: paths without their folders, and either `train.epochs` or `train.steps`.
    unused = "train.epochs" if config.train.steps else "train.steps"
    settings = {
        key: _without_folders(value)
        for key, value in values_that_are_set(config).items()
        if key != unused and key not in PRIVATE_KEYS
    }
    checks = [f"| {name} | {value} |" for name, value in fidelity_facts(fidelity)]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {visible(run.name)}",
        _origin(frozen, result, fidelity),
        "## Check of this artifact",
        "\n".join(["| | this artifact, loaded from disk |", "|---|---|", *checks]),
        "## Data",
        _data(frozen, result),
        "## Cost of the training",
        _costs(result),
        "## Load and serve",
        _usage(fidelity, frozen),
        "## Configuration",
        "```json\n" + json.dumps(settings, indent=2, default=str) + "\n```",
    ]
    ModelCard("\n\n".join(parts)).save(folder / "README.md")


def _without_folders(value: Any) -> Any:
    """The value with the last part of paths on this machine, which are absolute in a run's configuration."""
    if isinstance(value, (list, tuple)):
        return [_without_folders(part) for part in value]
    if isinstance(value, dict):
        return {name: _without_folders(part) for name, part in value.items()}
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~/")) else value


def _origin(frozen: FrozenRun, result: Result, fidelity: Fidelity) -> str:
    model = frozen.config.model
    note = locate(model).note
    revision = f" at revision {model.revision}" if model.revision else ""
    base = f"`{visible(_without_folders(model.id))}`{revision}" + (f" ({visible(note)})" if note else "")
    license_note = "" if model.id in CATALOG or model.id == EMBEDDED else " Its license applies to this model too."
    title = TITLES.get(fidelity.kind) or format_module(fidelity.kind).TITLE
    method = f"{frozen.config.method}, seed {frozen.config.train.seed}, {result.steps} steps"
    if result.from_run:
        method += f"; it continues the run {visible(result.from_run)}"
    return (
        f"{title} {base}, trained by ftbench ({method}). Fingerprint of the base: "
        f"`{result.fingerprints.get('model', 'unknown')[:23]}`.{license_note}"
    )


def _data(frozen: FrozenRun, result: Result) -> str:
    overlap = "; ".join(
        f"{pair}: {rows.both:,} rows with the same prompt and answer" for pair, rows in result.overlap.items()
    )
    lines = [
        f"Dataset `{visible(Path(frozen.config.data.id).name)}`, fingerprint "
        f"`{result.fingerprints.get('data', 'unknown')[:16]}`."
    ]
    if overlap:
        lines.append(f"Overlap: {overlap}.")
    if result.from_run:
        lines.append("The data of the run that it continues is not part of these figures.")
    return " ".join(lines)


def _costs(result: Result) -> str:
    facts = [duration(result.active_seconds), f"peak memory while training {size(result.peak.training)}"]
    if result.energy:
        facts.append(f"{result.energy / 3600:.1f} Wh")
    if result.cost is not None:
        facts.append(money(result.cost, result.currency))
    machine = result.machine.get("device", "unknown device")
    return f"{', '.join(facts)}, on {visible(str(machine))}."


def _usage(fidelity: Fidelity, frozen: FrozenRun) -> str:
    """Code and commands that load and serve the artifact, each command with whether ftbench has run it."""
    if fidelity.kind not in TITLES:
        return format_module(fidelity.kind).USAGE
    config = config_of(frozen.config.model)
    if fidelity.kind == "adapter":
        code = _adapter_code(frozen, config)
        serve = (
            "vllm serve BASE --enable-lora --lora-modules tuned=FOLDER    # not run by ftbench"
            if method_spec(frozen.config.method).is_lora
            else ""  # vLLM serves no other adapters
        )
    else:
        is_multimodal = served_class(config) is AutoModelForMultimodalLM
        name = (AutoModelForMultimodalLM if is_multimodal else AutoModelForCausalLM).__name__
        code = (
            f"from transformers import {name}, AutoTokenizer\n\n"
            f'model = {name}.from_pretrained(FOLDER, dtype="auto", device_map="auto")\n'
        )
        serve = (
            "transformers serve FOLDER    # run in ftbench's tests, with another model\n"
            "vllm serve FOLDER            # not run by ftbench"
        )
    # The code decodes greedily, as the check does.
    length = frozen.config.evaluation.max_new_tokens
    system = '{"role": "system", "content": SYSTEM_PROMPT}, ' if fidelity.system_prompt else ""
    code += (
        "tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n\n"
        f'messages = [{system}{{"role": "user", "content": PROMPT}}]\n'
        "inputs = tokenizer.apply_chat_template(\n"
        '    messages, add_generation_prompt=True, return_tensors="pt", return_dict=True\n'
        ").to(model.device)\n"
        f"answer = model.generate(**inputs, max_new_tokens={length}, do_sample=False)\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))'
    )
    # The score of a QLoRA adapter on the base that servers load.
    others = [other for other in fidelity.candidates if fidelity.kind == "adapter" and not other.kept]
    facts = [base_fact(fidelity, other) for other in others]
    note = "\n\n".join(f"{text[:1].upper()}{text[1:]}: {value}." for text, value in facts)
    commands = f"```bash\n{serve}\n```" if serve else ""
    return "\n\n".join(filter(None, [f"```python\n{code}\n```", note, commands]))


def _adapter_code(frozen: FrozenRun, model_config: Any) -> str:
    """Code that loads an adapter on the base as in its training and check: its class, data type and quantization."""
    config, base_class = frozen.config, auto_class(model_config).__name__
    is_quantized = method_spec(config.method).quantizes_base
    dtype = str(method(config.method).weight_dtype(config, this_machine()))
    settings, arguments = "", [f"dtype={dtype}", 'device_map="auto"']
    if is_quantized:
        arguments.append("quantization_config=base_in_4_bits")
        unquantized = unquantized_patterns(plain_model(model_config), this_machine().device == "cpu")
        settings = (
            "base_in_4_bits = BitsAndBytesConfig(  # as in training: on the 16-bit base the answers differ\n"
            "    load_in_4bit=True,\n"
            f'    bnb_4bit_quant_type="{config.quantization.type}",\n'
            f"    bnb_4bit_use_double_quant={config.quantization.double},\n"
            f"    bnb_4bit_compute_dtype={dtype},\n"
            f"    llm_int8_skip_modules={json.dumps(unquantized)},\n"
            ")\n"
        )
    names = ["AutoTokenizer"] + (["BitsAndBytesConfig"] if is_quantized else [])
    if base_class == AutoModelForCausalLM.__name__:
        peft_name = "AutoPeftModelForCausalLM"
        load = f"model = AutoPeftModelForCausalLM.from_pretrained(FOLDER, {', '.join(arguments)})\n"
    else:
        peft_name = "PeftModel"
        names.append(base_class)
        load = (
            f"base = {base_class}.from_pretrained(BASE, {', '.join(arguments)})\n"
            "model = PeftModel.from_pretrained(base, FOLDER)\n"
        )
    imports = f"import torch\nfrom peft import {peft_name}\nfrom transformers import {', '.join(sorted(names))}\n\n"
    return imports + settings + load
