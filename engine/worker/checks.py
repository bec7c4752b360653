"""Refuse what cannot work: missing models and invalid data before a run waits for its device, then changed rows,
adapter targets, quantized weights and too little disk space before weights are loaded.

Imports nothing heavy: a mistake in the inputs is refused within half a second, and not only once the device is free.
What is not checked here is refused when the run prepares its data (the Hub, Parquet and compressed files, large files,
tokenizers), and its rows by `engine.evaluation.preflight`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.errors import UserError
from engine.config.files import TEXT_KINDS, data_file_kind, expanded, is_hub_id
from engine.config.method_specs import method_spec
from engine.config.model_config import check_method
from engine.config.model_files import model_place
from engine.config.schema import Config, Data
from engine.config.text import amount
from engine.data.detection import check_columns, detect
from engine.data.readers.arrow_files import is_disk_set
from engine.data.rows import SPLITS, ReadingNotes
from engine.data.source import EMBEDDED, data_files, read
from engine.methods.model_source import fingerprint, locate
from engine.runs.run import events
from engine.runs.run.run_dir import RunDir
from engine.runs.run.usage import ModelAccount

if TYPE_CHECKING:
    from engine.data.prepared import Preparation
    from engine.methods.machine import Machine
    from engine.worker.run_log import EarlierWorkers

MAX_BYTES = 1 << 20
"""Total size of the files of a dataset up to which they are read here, in 0.02 s: preparing reads them again."""


def refuse_inputs(config: Config) -> None:
    """Raise the UserError that the run would raise once it has its device; other errors are left to the run."""
    try:
        if model_place(config.model).kind != "gguf":  # locating it converts the file
            locate(config.model)
        _refuse_data(config.data)
    except UserError:
        raise
    except Exception:  # noqa: BLE001 - the run calls the same functions and reports every error
        return


def _refuse_data(data: Data) -> None:
    path = expanded(data.id)
    if data.id in EMBEDDED or (is_hub_id(data.id) and not path.exists()) or (path.is_dir() and is_disk_set(path)):
        return
    if path.is_dir():
        files = list(data_files(path, data.id, ReadingNotes())[0].values())
    else:
        files = [path] if path.is_file() else []
    if _bytes(files) > MAX_BYTES:
        return
    source = read(data)
    files = [file for rows in source.splits.values() for part in rows.parts for file in part.files]
    if (
        all(file.suffix != ".gz" and data_file_kind(file) in TEXT_KINDS for file in files)
        and _bytes(files) <= MAX_BYTES
    ):
        detected = detect(source.train, data)
        for rows in source.splits.values():
            check_columns(rows, detected)


def data_files_state(data: Data) -> dict[Path, tuple[int, int]]:
    """File -> (modification time in ns, bytes), for the local files of a dataset; {} for others."""
    named = [data.id, *(name for name in (data.validation, data.test) if isinstance(name, str))]
    files: dict[Path, tuple[int, int]] = {}
    for path in map(expanded, named):
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                status = file.stat()
                files[file] = status.st_mtime_ns, status.st_size
    return files


def check_files_unchanged_since(before: dict[Path, tuple[int, int]], data: Data) -> None:
    """Raise UserError if a file of the dataset changed while the run waited for its device."""
    now = data_files_state(data)
    changed = [file for file in {**before, **now} if before.get(file) != now.get(file)]
    if changed:
        hint = "start the run again to train on the new rows"
        raise UserError("the file changed while the run waited", str(changed[0]), hint, "data.changed_while_waiting")


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def check_rows_unchanged_since_check(rows: Preparation, checked: str) -> None:
    """Raise UserError if the rows differ from those checked before launch (`checked` is '' without a check)."""
    if not checked or rows.facts.fingerprint == checked:
        return
    counts = ", ".join(_amount(name, count) for name, count in _counts(rows).items())
    problem = f"the rows differ from those that were checked before launch (now {counts})"
    hint = "check the data again: the data, the tokenizer or the chat template has changed; then start the run again"
    raise UserError(problem, rows.facts.source, hint, code="data.changed_since_check")


def check_rows_unchanged_since_start(rows: Preparation, first: events.DataPrepared | None) -> None:
    """Raise UserError if a resumed run would train on other rows than at its first start."""
    if first is None or rows.facts.fingerprint == first.fingerprint:
        return
    before, now = {"train": first.train, "validation": first.validation, "tokens": first.tokens}, _counts(rows)
    changed = [f"{_amount(name, before[name])}, now {now[name]:,}" for name in before if before[name] != now[name]]
    details = "; ".join(changed) or "equal counts, different content"
    problem = f"the rows differ from those of the run's first start ({details})"
    hint = "restore the data, tokenizer, chat template and ftbench version, or start a new run"
    raise UserError(problem, rows.facts.source, hint, code="data.changed_since_start")


def _counts(rows: Preparation) -> dict[str, int]:
    return {name: len(rows.rows[name]) for name in SPLITS} | {"tokens": int(rows.train.lengths.sum())}


def _amount(name: str, count: int) -> str:
    return amount(count, "training token" if name == "tokens" else f"{name} row")


MODEL_CODES = ("model.unknown_target", "model.expert_adapter", "model.already_quantized")
"""Errors of building the model on the meta device that loading it would raise too."""


def check_moved_model(config: Config, model_config: Any, earlier: EarlierWorkers) -> None:
    """Raise UserError if a resumed run reads its model from another place and the weights are others."""
    if not earlier.model or config.model.id == earlier.model_id:
        return
    if fingerprint(config.model, model_config) != earlier.model:
        problem = f"other weights than those of {earlier.model_id}, with which the run started"
        hint = "copy its folder; `--set model.id=PATH` says where it is"
        raise UserError(problem, config.model.id, hint, code="run.other_model")


def refuse_model(config: Config, model_config: Any, machine: Machine) -> None:
    """Raise UserError for families, and types of stored weights, that the method cannot train, for adapter targets that
    match no layer, and for settings that PEFT does not support for experts.

    `model_config`: transformers' configuration. Builds the model on the meta device, and only if there are adapters.
    """
    check_method(model_config.to_dict(), config.model.id, config.method)
    if not method_spec(config.method).trains_weights:
        account_before_loading(config, model_config, machine)


def account_before_loading(config: Config, model_config: Any, machine: Machine) -> ModelAccount | None:
    """The use of every weight by a run with this configuration, without weights; None if only loading can tell.

    Raises UserError like `refuse_model`.
    """
    from engine.memory.dry_run.fake_model import predict_account  # imports torch

    try:
        return predict_account(config, model_config, machine)
    except UserError as error:
        if error.code in MODEL_CODES:
            raise
    except Exception:  # noqa: BLE001 - unusual architectures fail on meta in many ways; loading decides
        pass
    return None


def refuse_small_disk(run: RunDir, config: Config, model_config: Any, machine: Machine) -> None:
    """Raise UserError if checkpoints and model would not fit on the disk.

    Checkpoints and model of earlier workers count as free space: this worker replaces them.
    """
    from engine.memory.formula.formula import needed_space, small_disk_error

    needed = needed_space(config, model_config.to_dict(), machine.device, machine.bf16)
    replaced = [file for folder in (run.checkpoints, run.model) for file in folder.rglob("*") if file.is_file()]
    free = shutil.disk_usage(run.path).free + _bytes(replaced)
    if error := small_disk_error(needed, free, run.path):
        raise error
