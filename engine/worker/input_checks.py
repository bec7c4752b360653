"""Refuse missing models, missing data and invalid small data files before a run waits for its device.

Imports nothing heavy: a mistake is refused within half a second, and not only once the device is free. What is not
checked here (the Hub, Parquet and compressed files, large files, tokenizers) is refused when the run prepares its data.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.config.data_files import TEXT_KINDS, data_file_kind, is_hub_id
from engine.config.errors import UserError
from engine.config.files import expanded
from engine.config.model_files import model_place
from engine.config.schema import Config, Data, Model
from engine.data.detection import check_columns, detect
from engine.data.readers.arrow_files import is_disk_set
from engine.data.rows import ReadingNotes
from engine.data.source import EMBEDDED, data_files, read
from engine.methods.model_source import locate

MAX_BYTES = 1 << 20
"""Total size of the files of a dataset up to which they are read here, in 0.02 s: preparing reads them again."""


def refuse_inputs(config: Config) -> None:
    """Raise the UserError that the run would raise once it has its device; other errors are left to the run."""
    try:
        _refuse_model(config.model)
        _refuse_data(config.data)
    except UserError:
        raise
    except Exception:  # noqa: BLE001 - the run calls the same functions and reports every error
        return


def _refuse_model(model: Model) -> None:
    if model_place(model).kind != "gguf":  # locating it converts the file
        locate(model)


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
        found = detect(source.train, data)
        for rows in source.splits.values():
            check_columns(rows, found)


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)
