"""Answer a run's test rows with an artifact, in a process that loads nothing else.

The artifact is loaded as its users load it: by transformers or PEFT from its folder, with its own tokenizer, chat
template and end tokens. For comparison, the logits of the run's own model are measured in the same way.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from engine.config.device_defaults import MAX_TOKENS, answers_together
from engine.config.errors import Notice
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.config.schema import Model
from engine.data.items import all_rows
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import Generator, end_tokens
from engine.evaluation.metrics import Choices, best_score
from engine.evaluation.score import Scorer, item_losses
from engine.export import llama_cpp
from engine.export.checker import ArtifactCheck, CheckJob
from engine.export.checkpoint import CheckpointFiles, CheckpointMap
from engine.export.export_source import ScoredRows, rendered_by, scored_rows
from engine.export.merged import ADAPTER_WEIGHTS, plain_model, served_class
from engine.methods import method
from engine.methods.adapters import copy_adapter, multiply_in_input_dtype, own_targets
from engine.methods.loading import auto_class, load_pretrained
from engine.methods.machine import Machine, this_machine, versions
from engine.methods.model_source import config_of, fingerprint, load_tokenizer
from engine.methods.qlora import quantization, unquantized_patterns
from engine.methods.weights import ROUTER_CLASS
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.run_dir import FrozenRun, RunDir, read_frozen
from engine.training.batches import Packing, collate, targets_of
from engine.training.loss import answer_logits, supports_logits_to_keep
from engine.training.row_independence import ONE_ROW

LOGIT_TOKENS = 64
"""Answer tokens whose logits are compared."""
LOGITS, EXPERTS = "logits", "experts"


def check(job: CheckJob, progress: Any) -> ArtifactCheck:
    """Load the artifact, compare logits, answer the test rows."""
    run = RunDir(Path(job.run))
    frozen, result, machine = read_frozen(run), run.result(), this_machine()
    assert result is not None
    frozen = frozen.with_metric(result.metric)
    progress("preparing test rows")
    tokenizer = load_tokenizer(frozen.config.model)
    scored = scored_rows(frozen, tokenizer, result.fingerprints.get("test", ""))
    checked = ArtifactCheck(device=machine.name, versions=versions())
    progress("loading the model" if job.kind == "run" else "loading the artifact")
    if job.kind == "gguf":
        _check_gguf(job, frozen, scored, tokenizer, checked, progress)
        return checked
    model = _run_model(run, frozen, machine) if job.kind == "run" else _artifact(job, run, frozen, machine, checked)
    model.eval()
    pad = tokenizer.pad_token_id
    compare_logits(lambda row: logits_and_experts(model, row, pad, machine.device), scored, job, checked)
    if job.kind != "run" and scored.items:
        _answer(model, job, frozen, scored, tokenizer, machine, checked, progress)
    return checked


def _run_model(run: RunDir, frozen: FrozenRun, machine: Machine) -> torch.nn.Module:
    """The run's model as it was evaluated: the base as the method loads it, with the trained adapter."""
    config = frozen.config
    if method_spec(config.method).trains_weights:
        dtype = method(config.method).weight_dtype(config, machine)
        return load_pretrained(Model(id=str(run.model)), machine, dtype)
    base = method(config.method).load(config, machine)
    with own_targets():
        adapted = peft.PeftModel.from_pretrained(base, str(run.model))
    copy_adapter(adapted, run.model)
    return multiply_in_input_dtype(adapted)


def _artifact(
    job: CheckJob, run: RunDir, frozen: FrozenRun, machine: Machine, checked: ArtifactCheck
) -> torch.nn.Module:
    """Load the artifact by its own files alone."""
    options: dict[str, Any] = {"device_map": {"": 0}} if machine.device == "cuda" else {}
    options |= {"use_safetensors": True, "trust_remote_code": False}
    if job.kind == "adapter":
        checked.defects += _base_defects(Path(job.artifact), run)
        return _adapted_base(job, frozen, machine, checked, options)
    folder = Path(job.artifact)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = _load_as(served_class(config), folder, job, checked, options | {"dtype": "auto"})
    if (text_class := _text_class(config)) not in (None, type(model)):
        _load_as(text_class, folder, job, checked, options | {"dtype": "auto", "device_map": "meta"}, ("missing",))
    checked.defects += _refused_by_vllm(config, CheckpointFiles(folder).files, checked)
    return model


def _text_class(config: Any) -> Any:
    """The class that `AutoModelForCausalLM` loads, which drops the towers of some multimodal models; None without."""
    return AutoModelForCausalLM._model_mapping.get(type(config), None)


def _load_as(
    kind: Any,
    folder: Path,
    job: CheckJob,
    checked: ArtifactCheck,
    options: dict[str, Any],
    faults: Sequence[str] = ("missing", "unexpected", "mismatched"),
) -> Any:
    """Load a merged model with a class; missing, unexpected or mismatched weights are a defect.

    Tensors of the base that no class of transformers loads, as those for multi-token prediction, are not unexpected.
    """
    model, info = kind.from_pretrained(folder, output_loading_info=True, **options)
    unused = set(CheckpointMap(model, CheckpointFiles(folder)).unused)
    for code in faults:
        keys = sorted(map(str, info[f"{code}_keys"]))
        if keys and not (code == "unexpected" and unused <= set(job.copied)):
            text = f"{len(keys)} {code} weights in {type(model).__name__} (first: {keys[0]})"
            checked.defects.append(Notice(f"export.{code}_weights", text))
    return model


def _adapted_base(
    job: CheckJob, frozen: FrozenRun, machine: Machine, checked: ArtifactCheck, options: dict[str, Any]
) -> torch.nn.Module:
    """The base that an adapter names, with the adapter; a defect for weights of the adapter that find no place."""
    folder = Path(job.artifact)
    named = peft.PeftConfig.from_pretrained(str(folder))
    source, revision = str(named.base_model_name_or_path), named.revision
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    kind = auto_class(config)
    options |= _base_options(job, frozen, machine, config)
    base = kind.from_pretrained(source, revision=revision, **options)
    with own_targets() if "quantization_config" in options else contextlib.nullcontext():  # of 4-bit layers
        model = peft.PeftModel.from_pretrained(base, str(folder))
    stored = load_file(folder / ADAPTER_WEIGHTS)
    loaded = peft.set_peft_model_state_dict(model, stored)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[named.peft_type]  # "lora_"
    for code in ("missing", "unexpected"):
        if keys := sorted(name for name in getattr(loaded, f"{code}_keys") if prefix in name):
            text = f"{len(keys)} {code} weights of the adapter (first: {keys[0]})"
            checked.defects.append(Notice(f"export.{code}_weights", text))
    names = [name.removeprefix("base_model.model.") for name in stored]
    checked.warnings += _refused_by_vllm(config, names, checked)
    return model


VLLM_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "Gemma3ForConditionalGeneration": (
        *("model.language_model.", "model.vision_tower.", "model.multi_modal_projector.", "lm_head."),
        *("language_model.", "vision_tower.", "multi_modal_projector."),
    ),
    "Gemma4ForConditionalGeneration": ("model.", "lm_head."),
    "GptOssForCausalLM": ("model.", "lm_head."),
    "Mistral3ForConditionalGeneration": (
        *("model.", "lm_head."),
        *("language_model.", "vision_tower.", "multi_modal_projector."),
    ),
    "Qwen3_5ForConditionalGeneration": ("model.language_model.", "model.visual.", "lm_head.", "mtp."),
    "Qwen3_5MoeForConditionalGeneration": ("model.language_model.", "model.visual.", "lm_head.", "mtp."),
    "Qwen3VLForConditionalGeneration": ("model.language_model.", "model.visual.", "lm_head."),
}
"""Architecture -> the beginnings of the names that vLLM loads: `hf_to_vllm_mapper` in its models qwen3_5.py (commit
00def4f8), mistral3.py (02677fd9), gemma4_mm.py (01bae219), gpt_oss.py (0025d69b), gemma3_mm.py and qwen3_vl.py, and the
names of the modules of its classes. Read, not run.
"""


def names_for_vllm(architectures: Sequence[str] | None, names: Iterable[str]) -> tuple[bool | None, list[str]]:
    """Whether vLLM's mapping of the family has all names, None for a family that is not listed; and those it lacks."""
    accepted = VLLM_PREFIXES.get((architectures or [""])[0])
    if accepted is None:
        return None, []
    refused = sorted(name for name in names if not name.startswith(accepted))
    return not refused, refused


def _refused_by_vllm(config: Any, names: Iterable[str], checked: ArtifactCheck) -> list[Notice]:
    checked.vllm_names, refused = names_for_vllm(config.architectures, names)
    text = f"vLLM's mapping of the family does not have {len(refused)} weights (first: {next(iter(refused), '')})"
    return [Notice("export.vllm_names", text)] if refused else []


def _base_options(job: CheckJob, frozen: FrozenRun, machine: Machine, model_config: Any) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load the base of an adapter as the code in its card does, or in 16 bits."""
    config = frozen.config
    options: dict[str, Any] = {"dtype": method(config.method).weight_dtype(config, machine)}
    if method_spec(config.method).quantizes_base and job.quantize_base:
        unquantized = unquantized_patterns(plain_model(model_config), machine.device == "cpu")
        options["quantization_config"] = quantization(config, machine, unquantized)
    return options


def _base_defects(artifact: Path, run: RunDir) -> list[Notice]:
    """A defect if the base model that the adapter names is not the run's."""
    named = peft.PeftConfig.from_pretrained(str(artifact))
    model = Model(id=str(named.base_model_name_or_path), revision=named.revision)
    result = run.result()
    expected = result.fingerprints.get("model", "") if result else ""
    actual = fingerprint(model, config_of(model))
    if not expected or actual == expected:
        return []
    text = f"the adapter's base {model.id} is not the model of the run ({actual[:23]}, not {expected[:23]})"
    return [Notice("export.other_base", text)]


def _check_gguf(
    job: CheckJob,
    frozen: FrozenRun,
    scored: ScoredRows,
    tokenizer: PreTrainedTokenizerBase,
    checked: ArtifactCheck,
    progress: Any,
) -> None:
    """The same with llama.cpp, on the CPU."""
    folder, evaluation = Path(job.artifact), frozen.config.evaluation
    checked.device, checked.tensor_types = f"llama.cpp on {os.cpu_count()} CPU cores", llama_cpp.tensor_types(folder)
    with llama_cpp.open_gguf(folder, scored, evaluation) as model:
        checked.defects += llama_cpp.defects(model, tokenizer, scored)
        compare_logits(lambda row: (llama_cpp.row_logits(model, row), None), scored, job, checked)
        if scored.items:
            checked.items, answers, checked.seconds = llama_cpp.answer(model, tokenizer, scored, evaluation, progress)
            checked.count(answers, evaluation.max_new_tokens)


@contextlib.contextmanager
def chosen_experts(model: torch.nn.Module) -> Iterator[list[torch.Tensor]]:
    """Context that collects what the routers of a mixture of experts choose: for each router (tokens, experts per
    token), sorted. transformers' routers return (logits, weights, indices of the experts).
    """
    chosen: list[torch.Tensor] = []

    def record(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, tuple) and isinstance(output[-1], torch.Tensor) and output[-1].dtype == torch.int64:
            chosen.append(output[-1].flatten(0, -2).sort(-1).values.cpu())

    routers = [module for module in model.modules() if ROUTER_CLASS.search(type(module).__name__)]
    hooks = [router.register_forward_hook(record) for router in routers]
    try:
        yield chosen
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def logits_and_experts(
    model: torch.nn.Module, row: Row, pad: int, device: str
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(K, V): logits that predict the row's K tokens in the loss; and (tokens, routers, experts per token): the experts
    chosen for its tokens, None without routers.
    """
    with chosen_experts(model) as chosen:
        batch = collate([row], ONE_ROW, pad, device)
        logits, _ = answer_logits(model, batch, supports_logits_to_keep(model))
    if len({router.shape for router in chosen}) != 1:
        return logits, None
    return logits, torch.stack(chosen, 1)[: len(row.input_ids)]


def compare_logits(
    logits_of: Callable[[Row], tuple[torch.Tensor, torch.Tensor | None]],
    scored: ScoredRows,
    job: CheckJob,
    checked: ArtifactCheck,
) -> None:
    """Logits of the first answer tokens of the run's rows: stored for the run, compared for an artifact.

    logits_of: as `logits_and_experts`. Where two experts have nearly equal scores, rounding
    decides between them, and the logits of that token differ by far more than by rounding alone.
    """
    parts: list[torch.Tensor] = []
    experts: list[torch.Tensor | None] = []
    places: list[torch.Tensor] = []
    rows = all_rows(scored.items) or list(scored.rows.validation[:8]) or list(scored.rows.train[:8])
    for row in rows:
        logits, chosen = logits_of(row)
        parts.append(logits.float().cpu())
        experts.append(chosen)
        places.append(torch.tensor(targets_of(row)).ne(IGNORE_INDEX).nonzero().flatten())
        if sum(map(len, parts)) >= LOGIT_TOKENS:
            break
    logits = torch.cat(parts)[:LOGIT_TOKENS]
    known = {f"{EXPERTS}.{number}": chosen for number, chosen in enumerate(experts) if chosen is not None}
    if job.kind == "run":
        save_file({LOGITS: logits.contiguous(), **known}, job.logits)
        return
    stored = load_file(job.logits)
    expected = stored.pop(LOGITS)
    if expected.shape[-1] != logits.shape[-1]:
        text = f"the vocabulary has {logits.shape[-1]:,} tokens, the run's has {expected.shape[-1]:,}"
        checked.defects.append(Notice("export.other_vocabulary", text))
        return
    differences = (logits - expected).abs().amax(-1)
    checked.largest_logit_difference = float(differences.max())
    checked.logits_compared = len(logits)
    if known and {name: chosen.shape for name, chosen in known.items()} == {
        name: chosen.shape for name, chosen in stored.items()
    }:
        changed = [(known[name] != stored[name]).any(-1) for name in known]  # (tokens, routers) of each row
        checked.experts_changed = float(torch.cat(changed).float().mean())
        same = [~row.any(-1)[place] for row, place in zip(changed, places, strict=True)]
        differences = differences[torch.cat(same)[:LOGIT_TOKENS]]
        checked.logits_with_same_experts = len(differences)
        checked.logit_difference_with_same_experts = float(differences.max()) if len(differences) else None


def _answer(
    model: torch.nn.Module,
    job: CheckJob,
    frozen: FrozenRun,
    scored: ScoredRows,
    tokenizer: PreTrainedTokenizerBase,
    machine: Machine,
    checked: ArtifactCheck,
    progress: Any,
) -> None:
    """Loss on the run's tokens; answers to the prompts as the artifact's own tokenizer renders them: chosen among the
    answers of the training rows, or generated.
    """
    evaluation, device = frozen.config.evaluation, machine.device
    own = _own_tokenizer(job.artifact)
    items, defects = rendered_by(own, frozen, scored.items)
    checked.defects += defects
    ends = _ends(job.artifact)
    checked.defects += _lost_end_tokens(tokenizer, scored, ends)
    packing = Packing("padded", MAX_TOKENS[device])
    losses = item_losses(model, scored.items, packing, tokenizer.pad_token_id, device)
    metric = metric_spec(evaluation.metric)
    if not metric.needs_answers:
        checked.items = [ScoredItem.of(loss) for loss in losses]
        return
    batch = answers_together(evaluation.batch, device)
    generator = Generator(own, evaluation.max_new_tokens, batch, device, ends, checked.warn)
    rows, started = [item.row for item in items], time.monotonic()

    def count(done: int) -> None:
        progress("answering test rows", done, len(items))

    if metric.picks_from_choices:
        scorer = Scorer(metric.name, generator, packing, own.pad_token_id, device)
        scorer.choose_from(Choices.of(scored.rows.train), items)
        assert scorer.chooser
        outputs = scorer.chooser.answers(model, rows, count)
    else:
        answers = generator.answer_tokens(model, rows, count)
        checked.count(answers, evaluation.max_new_tokens)
        outputs = generator.texts(answers)
    checked.seconds = time.monotonic() - started
    checked.items = [
        ScoredItem.of(loss, output, best_score(evaluation.metric, output, item.references, evaluation.reasoning_tags))
        for loss, output, item in zip(losses, outputs, items, strict=True)
    ]


def _lost_end_tokens(tokenizer: PreTrainedTokenizerBase, scored: ScoredRows, ends: frozenset[int]) -> list[Notice]:
    """A defect if an end token of the training rows does not end the artifact's answers."""
    lost = end_tokens(tokenizer, None, scored.rows.train) - ends
    if not lost:
        return []
    names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(lost))))
    text = f"the generation settings lack the end token of the training rows: {names}"
    return [Notice("export.lost_end_token", text)]


def _own_tokenizer(folder: str) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def _ends(folder: str) -> frozenset[int]:
    """The end tokens in the artifact's generation settings."""
    try:
        ends = GenerationConfig.from_pretrained(folder).eos_token_id
    except OSError:
        return frozenset()
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])
