"""Refuse what cannot work before weights are loaded: stored weights, adapter targets and settings, disk space.

Rows and position limit are checked by `engine.evaluation.preflight`, the tokenizer when it is loaded.
"""

from __future__ import annotations

import shutil
from typing import Any

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.model_limits import check_stored_weights
from engine.config.schema import Config
from engine.memory.dry_run.fake_model import predict_account
from engine.memory.formula.disk_space import needed_space, small_disk_error
from engine.methods.machine import Machine
from engine.runs.run.model_account import ModelAccount
from engine.runs.run.run_dir import RunDir

MODEL_CODES = ("model.unknown_target", "model.expert_adapter", "model.already_quantized")
"""Errors of building the model on the meta device that loading it would raise too."""


def refuse_model(config: Config, model_config: Any, machine: Machine) -> None:
    """Raise UserError for weights that are stored in a type that the method cannot train, adapter targets that match no
    layer, and settings that PEFT does not support for experts.

    `model_config`: transformers' configuration. Builds the model on the meta device, and only if there are adapters.
    """
    spec = method_spec(config.method)
    check_stored_weights(model_config.to_dict(), config.model.id, spec.quantizes_base)
    if not spec.trains_weights:
        account_before_loading(config, model_config, machine)


def account_before_loading(config: Config, model_config: Any, machine: Machine) -> ModelAccount | None:
    """The use of every weight by a run with this configuration, without weights; None if only loading can tell.

    Raises UserError like `refuse_model`.
    """
    try:
        return predict_account(config, model_config, machine)
    except UserError as error:
        if error.code in MODEL_CODES:
            raise
    except Exception:  # noqa: BLE001 - unusual architectures fail on meta in many ways; loading decides
        pass
    return None


def refuse_small_disk(run: RunDir, config: Config, model_config: Any, machine: Machine) -> None:
    """Raise UserError if checkpoints and model would not fit on the disk; files of earlier workers count as free."""
    needed = needed_space(config, model_config.to_dict(), machine.device, machine.bf16)
    free = shutil.disk_usage(run.path).free + _reusable(run)
    if error := small_disk_error(needed, free, run.path):
        raise error


def _reusable(run: RunDir) -> int:
    """Bytes of checkpoints and model of earlier workers, which this worker replaces."""
    folders = (run.checkpoints, run.model)
    return sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
