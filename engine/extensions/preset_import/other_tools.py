"""The settings of axolotl, LLaMA-Factory, TRL and PEFT: which of ours each is, and their defaults.

Names and defaults were read in the sources of axolotl (src/axolotl/utils/schemas), LLaMA-Factory
(src/llamafactory/hparams and v1/config), TRL (trl/trainer/sft_config.py, model_config.py) and PEFT
(src/peft/tuners/lora/config.py) of July 2026.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

Convert = Callable[[Any], Any]


class NoCounterpart(Exception):
    """A value without a counterpart; the text says why."""


class Changed(NamedTuple):
    """A value with a near counterpart only."""

    value: Any
    note: str
    """What differs."""


# Values


def text(value: Any) -> str:
    """Names, modes and revisions: nothing else is turned into text, which of a nested value could have any length."""
    if not isinstance(value, str):
        raise NoCounterpart("not a text in quotes")
    return value


def number(value: Any) -> float | int:
    """YAML 1.1 reads `1e-4` as a string."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise NoCounterpart("not a number") from None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise NoCounterpart("not a number")
    return value


def whole(value: Any) -> int:
    if number(value) != int(number(value)):
        raise NoCounterpart("not a whole number")
    return int(number(value))


def flag(value: Any) -> bool:
    known = {"true": True, "yes": True, "false": False, "no": False}
    value = known.get(value.lower(), value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise NoCounterpart("neither true nor false")
    return value


def choice(known: Mapping[str, str | Changed]) -> Convert:
    """A converter of names."""

    def convert(value: Any) -> str | Changed:
        name = text(value).lower()
        if name not in known:
            names = dict.fromkeys(setting for setting in known.values() if isinstance(setting, str))
            raise NoCounterpart(f"one of {', '.join(names)}")
        return known[name]

    return convert


optimizer = choice(
    {
        **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw"),
        **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit"), "adamw_8bit"),
        "paged_adamw_8bit": "paged_adamw_8bit",
        **dict.fromkeys(("paged_adamw_32bit", "paged_adamw"), Changed("adamw", "32-bit state is not paged here")),
    }
)
schedule = choice(
    {
        **{name: name for name in ("cosine", "linear", "constant")},
        "constant_with_warmup": Changed("constant", "every schedule has the warmup of train.warmup_ratio"),
    }
)
attention = choice(
    {
        **{name: name for name in ("auto", "sdpa", "eager", "flash_attention_2", "flex_attention")},
        "fa2": "flash_attention_2",
        "disabled": "eager",
    }
)


def checkpointing(value: Any) -> bool | str | Changed:
    if value == "offload_disk":
        return Changed("offload", "to host memory, not to the disk")
    return "offload" if value == "offload" else flag(value)


def not_flag(value: Any) -> bool:
    return not flag(value)


def target_modules(value: Any) -> str | list[str]:
    if value in ("all", "all-linear", "all_linear"):
        return "all-linear"
    names = list(map(str.strip, value.split(","))) if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) and re.fullmatch(r"[\w.]+", name) for name in names):
        return names
    raise NoCounterpart("names of modules only, not regular expressions")


def initial_weights(value: Any) -> str | Changed:
    if value == "gaussian":
        return Changed("default", "A is initialized as in PEFT's default")
    if value in (True, None, "default"):
        return "default"
    if text(value).startswith("pissa"):
        return "pissa"
    raise NoCounterpart("default or pissa")


def share(value: Any) -> float:
    if not 0 <= number(value) < 1:
        raise NoCounterpart("a share below 1; hold out a file with data.validation")
    return float(value)


def hub_name(value: Any) -> str:
    """A model or dataset of the Hub; a path is not followed."""
    name = text(value)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith((".", "~")) or Path(name).suffix in DATA_SUFFIXES:
        raise NoCounterpart("a path or an unknown name, which is not followed")
    return name


DATA_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet", ".arrow", ".txt", ".yaml", ".yml")

# Tools


@dataclass(frozen=True)
class OtherTool:
    """How a tool's keys are read."""

    name: str
    settings: Mapping[str, tuple[str, Convert]]
    """Key -> our setting and the converter."""
    defaults: Mapping[str, Any]
    """What the tool uses where the file leaves a key unset; only what influences training."""
    batch: tuple[str, str]
    """Keys of the rows per forward pass and of gradient accumulation."""


WITHOUT_EFFECT = re.compile(
    r"output_dir|overwrite_.*|logging_.*|log_.*|report_to|run_name|plot_loss|save_.*|saves_.*|eval_.*|evals_.*|do_.*|"
    r"wandb_.*|mlflow_.*|comet_.*|swanlab.*|trackio_.*|dataset_prepared_path|preprocessing_.*|dataset_.*workers|"
    r"dataloader_.*|ddp_timeout|hub_.*|push_.*|debug|strict|dataset_processes|tf32|include_.*|disable_tqdm|"
    r"per_device_eval_batch_size|remove_unused_columns|loss_watchdog_.*|shuffle_.*|skip_.*|model_type|tokenizer_type|"
    r"processor_type|group_by_length|pad_to_sequence_len|low_cpu_mem_usage|gradient_checkpointing_kwargs|"
    r"torch_compile_.*|liger_.*|lora_.*_kernel|use_kernels|kernel_config|sample_backend|max_new_tokens|"
    r"load_best_model_at_end|metric_for_.*|export_.*|predict_with_generate|infer_.*|media_dir|"
    r"dataset_num_proc|model_class|"  # what an artifact of PEFT says of itself
    r"peft_version|task_type|inference_mode|auto_mapping|revision|megatron_.*|runtime_config|corda_config|eva_config|"
    r"loftq_config|qalora_group_size|ensure_weight_tying|use_qalora|lora_ga_config|arrow_config|use_bdlora|velora_config|"
    r"kappatune_config|monteclora_config"
)
"""Keys of outputs, logs and speed of loading."""
TRAINING_ARGUMENTS: dict[str, tuple[str, Convert]] = {
    "learning_rate": ("train.learning_rate", number),
    "num_train_epochs": ("train.epochs", number),
    "weight_decay": ("train.weight_decay", number),
    "max_grad_norm": ("train.max_grad_norm", number),
    "adam_beta1": ("optimizer.beta1", number),
    "adam_beta2": ("optimizer.beta2", number),
    "adam_epsilon": ("optimizer.eps", number),
    "adam_eps": ("optimizer.eps", number),
    "lr_scheduler_type": ("train.schedule", schedule),
    "warmup_ratio": ("train.warmup_ratio", share),
    "optim": ("optimizer.name", optimizer),
    "seed": ("train.seed", whole),
    "torch_compile": ("train.compile", flag),
    "full_determinism": ("train.deterministic", flag),
    "gradient_checkpointing": ("train.gradient_checkpointing", checkpointing),
    "attn_implementation": ("model.attention", attention),
    "model_name_or_path": ("model.id", hub_name),
    "loraplus_lr_ratio": ("adapter.lora_plus_ratio", number),
    "use_rslora": ("adapter.rslora", flag),
    "use_dora": ("adapter.dora", flag),
    "lora_alpha": ("adapter.alpha", number),
    "lora_dropout": ("adapter.dropout", number),
    "lora_target_modules": ("adapter.target_modules", target_modules),
}
"""Names of transformers' TrainingArguments and of adapters, which the tools share."""
TRAINING_DEFAULTS = {
    "learning_rate": 5e-5,
    "num_train_epochs": 3.0,
    "lr_scheduler_type": "linear",
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch",
    "seed": 42,
}
NO_COUNTERPART = {
    "trust_remote_code": "code from the Hub is never executed",
    **dict.fromkeys(("chat_template", "template"), "the model's own chat template is used"),
    "special_tokens": "the model's own tokenizer is used",
    **dict.fromkeys(("train_on_inputs", "train_on_prompt"), "only answers are in the loss"),
    **dict.fromkeys(
        ("lora_model_dir", "adapter_name_or_path"),
        "a path, which is not followed: `ftbench run --from` continues a run",
    ),
    **dict.fromkeys(("resume_from_checkpoint", "dataset_dir"), "a path, which is not followed"),
    "train_dataset": "a path, which is not followed: give --data",
    "dataset": "names of the other tool's list: give --data",
    **dict.fromkeys(
        ("deepspeed", "fsdp", "fsdp_config", "dist_config"), "several GPUs: train.devices and train.parallelism"
    ),
    "plugins": "code of the other tool",
    **dict.fromkeys(("lora_modules_to_save", "modules_to_save"), "adapters train low-rank matrices only"),
    "lora_target_parameters": "all-linear includes experts; else name them in adapter.target_modules",
    "load_in_8bit": "bases are 4-bit or 16-bit",
    "eot_tokens": "the ends of answers are those of the chat template",
    "unfrozen_parameters": "full fine-tuning trains all weights",
    **dict.fromkeys(("bf16", "dtype", "pure_bf16"), "train.precision = auto decides by method and device"),
    "fp16": "float16 is not used; train.precision = auto decides by method and device",
}
"""Key -> why it is left out."""

AXOLOTL = OtherTool(
    "axolotl",
    settings=TRAINING_ARGUMENTS
    | {
        "base_model": ("model.id", hub_name),
        "revision_of_model": ("model.revision", text),
        "sequence_len": ("train.max_length", whole),
        "num_epochs": ("train.epochs", number),
        "lr_scheduler": ("train.schedule", schedule),
        "optimizer": ("optimizer.name", optimizer),
        "val_set_size": ("data.validation", share),
        "lora_r": ("adapter.rank", whole),
        "peft_use_rslora": ("adapter.rslora", flag),
        "peft_use_dora": ("adapter.dora", flag),
        "peft_init_lora_weights": ("adapter.init", initial_weights),
        "datasets[0].path": ("data.id", hub_name),
        "datasets[0].name": ("data.subset", text),
    },
    defaults={
        "sequence_len": 512,
        "num_epochs": 1.0,
        "lr_scheduler": "cosine",
        "optimizer": "adamw_torch_fused",
        "val_set_size": 0.0,
        "weight_decay": 0.0,
        "warmup_ratio": 0.0,
        "max_grad_norm": 1.0,
        "seed": 42,
        "lora_dropout": 0.0,
    },
    batch=("micro_batch_size", "gradient_accumulation_steps"),
)
LLAMA_FACTORY = OtherTool(
    "LLaMA-Factory",
    settings=TRAINING_ARGUMENTS
    | {
        "model": ("model.id", hub_name),
        "model_revision": ("model.revision", text),
        "cutoff_len": ("train.max_length", whole),
        "val_size": ("data.validation", share),
        "max_samples": ("data.max_rows", whole),
        "flash_attn": ("model.attention", attention),
        "enable_thinking": ("model.enable_thinking", flag),
        "disable_gradient_checkpointing": ("train.gradient_checkpointing", not_flag),
        "enable_activation_checkpointing": ("train.gradient_checkpointing", checkpointing),
        "quantization_type": ("quantization.type", choice({"nf4": "nf4", "fp4": "fp4"})),
        "double_quantization": ("quantization.double", flag),
        "lora_rank": ("adapter.rank", whole),
        "lora_target": ("adapter.target_modules", target_modules),
        "pissa_init": ("adapter.init", lambda value: "pissa" if flag(value) else "default"),
    },
    defaults=TRAINING_DEFAULTS | {"cutoff_len": 2048, "val_size": 0.0, "lora_rank": 8, "lora_dropout": 0.0},
    batch=("per_device_train_batch_size", "gradient_accumulation_steps"),
)
TRL = OtherTool(
    "TRL",
    settings=TRAINING_ARGUMENTS
    | {
        "model_revision": ("model.revision", text),
        "max_length": ("train.max_length", whole),
        "dataset_name": ("data.id", hub_name),
        "dataset_config": ("data.subset", text),
        "dataset_test_split": ("data.test", text),
        "bnb_4bit_quant_type": ("quantization.type", choice({"nf4": "nf4", "fp4": "fp4"})),
        "use_bnb_nested_quant": ("quantization.double", flag),
        "lora_r": ("adapter.rank", whole),
    },
    defaults=TRAINING_DEFAULTS
    | {"learning_rate": 2e-5, "max_length": 1024, "lora_r": 16, "lora_alpha": 32, "lora_dropout": 0.05},
    batch=("per_device_train_batch_size", "gradient_accumulation_steps"),
)
PEFT = OtherTool(
    "PEFT",
    settings={
        "base_model_name_or_path": ("model.id", hub_name),
        "r": ("adapter.rank", whole),
        "lora_alpha": ("adapter.alpha", number),
        "lora_dropout": ("adapter.dropout", number),
        "target_modules": ("adapter.target_modules", target_modules),
        "use_rslora": ("adapter.rslora", flag),
        "use_dora": ("adapter.dora", flag),
        "init_lora_weights": ("adapter.init", initial_weights),
    },
    defaults={"r": 8, "lora_alpha": 8, "lora_dropout": 0.0},
    batch=("", ""),
)
