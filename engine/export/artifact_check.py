"""Check artifacts in new processes, which load nothing else: answer a run's test rows with them.

`Checker` asks, through `engine.worker.rpc_server`, and `check` answers. An artifact is loaded as its users load it: by
transformers or PEFT from its folder, with its own tokenizer, chat template and end tokens. For comparison, the logits
of the run's own model are measured in the same way.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import msgspec
import peft
import torch
from msgspec import Struct, field
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
from engine.export.checkpoint import CheckpointFiles, CheckpointMap
from engine.export.export_source import ScoredRows, rendered_by, scored_rows
from engine.export.format_modules import format_module
from engine.export.merged import ADAPTER_WEIGHTS, plain_model, served_class
from engine.export.request import Progress
from engine.methods import method
from engine.methods.adapters import copy_adapter, multiply_in_input_dtype, own_targets
from engine.methods.loading import auto_class, load_pretrained
from engine.methods.machine import Machine, this_machine, versions
from engine.methods.model_source import config_of, fingerprint, load_tokenizer
from engine.methods.qlora import quantization, unquantized_patterns
from engine.methods.rope import separate_lengths
from engine.methods.weights import ROUTER_CLASS
from engine.runs.rpc_client import ask
from engine.runs.run.export_formats import export_formats
from engine.runs.run.exports import ArtifactMeasurements
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.result import Result
from engine.runs.run.run_dir import FrozenRun, RunDir, read_frozen
from engine.training.batches import Packing, collate, targets_of
from engine.training.loss import answer_logits, supports_logits_to_keep
from engine.training.row_independence import ONE_ROW

LOGIT_TOKENS = 64
"""Answer tokens whose logits are compared."""
LOGITS, EXPERTS = "logits", "experts"


class CheckJob(Struct, kw_only=True):
    """A request to check an artifact."""

    run: str
    """Run directory."""
    kind: str
    """Of artifact; `run` is the run's own model, of which only logits are measured."""
    artifact: str = ""
    quantize_base: bool = True
    """False: apply a QLoRA adapter to the base in 16 bits instead of the 4 bits of its training."""
    copied: list[str] = field(default_factory=list)
    """Tensors of the base that the class of the trained model does not load, and that were copied."""
    logits: str
    """File with the logits of the run's model: written for `run`, else compared with."""


class ArtifactCheck(ArtifactMeasurements, kw_only=True):
    """What a check found."""

    items: list[ScoredItem] = field(default_factory=list)
    """The artifact's answers and losses, in the order of the run's predictions."""
    seconds: float = 0.0
    """Generation time."""
    tokens: int = 0
    """Generated tokens."""

    def warn(self, code: str, text: str) -> None:
        self.warnings.append(Notice(code, text))

    def count(self, answers: list[list[int]], max_new_tokens: int) -> None:
        """Record the number of generated tokens and the share of answers that ended."""
        if answers:
            self.tokens = sum(map(len, answers))
            self.ended = sum(len(answer) < max_new_tokens for answer in answers) / len(answers)


@dataclass
class Checker:
    """Checks the artifacts of one run, after the logits of the run's own model."""

    run: RunDir
    work: Path
    """Folder for the logits."""
    progress: Progress
    seconds: float = 0.0
    """Duration of all checks so far."""

    def check(
        self,
        kind: str,
        artifact: Path | None = None,
        quantize_base: bool = True,
        copied: Sequence[str] = (),
    ) -> ArtifactCheck:
        """Check one artifact; the options as in `CheckJob`. Raises UserError and RunFailed as `ask` does."""
        job = CheckJob(
            run=str(self.run.path),
            kind=kind,
            artifact=str(artifact or ""),
            quantize_base=quantize_base,
            copied=list(copied),
            logits=str(self.work / "logits.safetensors"),
        )
        started = time.monotonic()
        answer = self.answer(job)
        self.seconds += time.monotonic() - started
        return answer

    def answer(self, job: CheckJob) -> ArtifactCheck:
        """The result of a check, computed in a new process."""
        result = ask("export.check", msgspec.to_builtins(job), self.progress, counted=self.progress)
        return msgspec.convert(result, ArtifactCheck)


@dataclass
class PreparedCheck:
    """What every check needs."""

    run: RunDir
    frozen: FrozenRun
    result: Result
    machine: Machine
    tokenizer: PreTrainedTokenizerBase
    """Of the base, as the training used it."""
    scored: ScoredRows
    checked: ArtifactCheck
    """To be filled in."""


def prepare_check(job: CheckJob, progress: Any) -> PreparedCheck:
    """Prepare the run's test rows. Raises UserError if they have changed."""
    run = RunDir(Path(job.run))
    frozen, result, machine = read_frozen(run), run.result(), this_machine()
    assert result is not None
    frozen = frozen.with_metric(result.metric)
    progress("preparing test rows")
    tokenizer = load_tokenizer(frozen.config.model)
    scored = scored_rows(frozen, tokenizer, result.fingerprints.get("test", ""))
    checked = ArtifactCheck(device=machine.name, versions=versions())
    progress("loading the model" if job.kind == "run" else "loading the artifact")
    return PreparedCheck(run, frozen, result, machine, tokenizer, scored, checked)


def check(job: CheckJob, progress: Any) -> ArtifactCheck:
    """Load the artifact, compare logits, answer the test rows."""
    if job.kind != "run" and export_formats()[job.kind].module:
        return cast(ArtifactCheck, format_module(job.kind).check(job, progress))
    prepared = prepare_check(job, progress)
    run, frozen, machine, tokenizer = prepared.run, prepared.frozen, prepared.machine, prepared.tokenizer
    scored, checked = prepared.scored, prepared.checked
    if job.kind == "run":
        model = _run_model(run, frozen, machine)
    elif job.kind == "adapter":
        model = _adapted_base(job, prepared.result, frozen, machine, checked)
    else:
        model = _merged_model(job, machine, checked)
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


def _loading_options(machine: Machine) -> dict[str, Any]:
    options: dict[str, Any] = {"device_map": {"": 0}} if machine.device == "cuda" else {}
    return options | {"use_safetensors": True, "trust_remote_code": False}


def _merged_model(job: CheckJob, machine: Machine, checked: ArtifactCheck) -> torch.nn.Module:
    """Load a merged model by its own files alone."""
    folder, options = Path(job.artifact), _loading_options(machine) | {"dtype": "auto"}
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    model = _load_as(served_class(config), folder, job, checked, options)
    # The class that `AutoModelForCausalLM` loads, which drops the towers of some multimodal models; None without one.
    text_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    if text_class not in (None, type(model)):
        _load_as(text_class, folder, job, checked, options | {"device_map": "meta"}, ("missing",))
    _check_names_for_vllm(config, CheckpointFiles(folder).files, checked, checked.defects)
    return model


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
    separate_lengths(model)
    unused = set(CheckpointMap(model, CheckpointFiles(folder)).unused)
    for code in faults:
        keys = sorted(map(str, info[f"{code}_keys"]))
        if keys and not (code == "unexpected" and unused <= set(job.copied)):
            text = f"{len(keys)} {code} weights in {type(model).__name__} (first: {keys[0]})"
            checked.defects.append(Notice(f"export.{code}_weights", text))
    return model


def _adapted_base(
    job: CheckJob, result: Result, frozen: FrozenRun, machine: Machine, checked: ArtifactCheck
) -> torch.nn.Module:
    """Load the base that an adapter names, as the code in its card does or in 16 bits, and the adapter on it.

    Records a defect if this base is not the run's model, or if the model has no place for weights of the adapter.
    """
    folder = Path(job.artifact)
    named = peft.PeftConfig.from_pretrained(str(folder))
    source, revision = str(named.base_model_name_or_path), named.revision
    base_model = Model(id=source, revision=revision)
    expected, actual = result.fingerprints.get("model", ""), fingerprint(base_model, config_of(base_model))
    if expected and actual != expected:
        text = f"the adapter's base {source} is not the model of the run ({actual[:23]}, not {expected[:23]})"
        checked.defects.append(Notice("export.other_base", text))

    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    kind, spec = auto_class(config), method_spec(frozen.config.method)
    options = _loading_options(machine) | {"dtype": method(frozen.config.method).weight_dtype(frozen.config, machine)}
    if in_4_bits := spec.quantizes_base and job.quantize_base:
        unquantized = unquantized_patterns(plain_model(config), machine.device == "cpu")
        options["quantization_config"] = quantization(frozen.config, machine, unquantized)
    base = kind.from_pretrained(source, revision=revision, **options)
    separate_lengths(base)
    with own_targets() if in_4_bits else contextlib.nullcontext():  # of 4-bit layers
        model = peft.PeftModel.from_pretrained(base, str(folder))

    stored = load_file(folder / ADAPTER_WEIGHTS)
    loaded = peft.set_peft_model_state_dict(model, stored)
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[named.peft_type]  # "lora_"
    for code in ("missing", "unexpected"):
        if keys := sorted(name for name in getattr(loaded, f"{code}_keys") if prefix in name):
            text = f"{len(keys)} {code} weights of the adapter (first: {keys[0]})"
            checked.defects.append(Notice(f"export.{code}_weights", text))
    names = [name.removeprefix("base_model.model.") for name in stored]
    _check_names_for_vllm(config, names, checked, checked.warnings)
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


def _check_names_for_vllm(config: Any, names: Iterable[str], checked: ArtifactCheck, notices: list[Notice]) -> None:
    """Add a notice if vLLM's mapping of the family lacks names; nothing for a family that is not listed."""
    accepted = VLLM_PREFIXES.get((config.architectures or [""])[0])
    if accepted is None:
        return
    refused = sorted(name for name in names if not name.startswith(accepted))
    checked.vllm_names = not refused
    if refused:
        text = f"vLLM's mapping of the family does not have {len(refused)} weights (first: {refused[0]})"
        notices.append(Notice("export.vllm_names", text))


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
    own = AutoTokenizer.from_pretrained(job.artifact, trust_remote_code=False)
    if own.pad_token_id is None:
        own.pad_token = own.eos_token
    own.padding_side = "left"
    items, defects = rendered_by(own, frozen, scored.items)
    checked.defects += defects
    try:
        set_ends = GenerationConfig.from_pretrained(job.artifact).eos_token_id
    except OSError:
        set_ends = None
    ends = frozenset(set_ends if isinstance(set_ends, list) else [] if set_ends is None else [set_ends])
    if lost := end_tokens(tokenizer, None, scored.rows.train) - ends:
        names = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(sorted(lost))))
        text = f"the generation settings lack the end token of the training rows: {names}"
        checked.defects.append(Notice("export.lost_end_token", text))

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
