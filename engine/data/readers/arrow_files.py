"""Read Parquet files, and datasets of Arrow files: from the Hugging Face Hub, and what `save_to_disk` wrote.

Batches are small enough that their decompressed rows fit into memory. Only the dataset in the preset is loaded from the
Hub, and no remote code is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engine.config.errors import UserError
from engine.config.http_client import bound_hub_client
from engine.data.readers.text_files import refuse_bomb, regular_file_size, unreadable
from engine.data.rows import MAX_ROWS, RawRow, raw_row, too_many_rows

_PARQUET_BATCH_BYTES = 256 << 20
"""Decoded bytes of a batch if every value were as large as its column allows."""
_PARQUET_BATCH_ROWS = (16, 1024)
_BATCH_BYTES, _BATCH_ROWS = 64 << 20, 1000
_SET, _SPLITS = "dataset_info.json", "dataset_dict.json"
_STATE = "state.json"
TRY_SECONDS = 5.0
"""Timeout of the first request; without a response the Hub counts as unreachable."""


def read_parquet(path: Path, name: str) -> Iterator[RawRow]:
    """Rows, numbered from 1. Raises UserError for damaged files and decompression bombs."""
    import pyarrow  # slow to import, and only needed for Parquet files
    from pyarrow import parquet

    size = regular_file_size(path, name)
    count = grown = 0
    try:
        with parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(index) for index in range(file.metadata.num_row_groups)]
            # The uncompressed pages according to the file's metadata.
            refuse_bomb(sum(group.total_byte_size for group in groups), size, name, "write it as .jsonl")
            if file.metadata.num_rows > MAX_ROWS:
                raise too_many_rows(name)
            # Values in a dictionary page can repeat at no cost; none is larger than its column chunk.
            chunks = [group.column(index) for group in groups for index in range(group.num_columns)]
            largest = max((chunk.total_uncompressed_size for chunk in chunks), default=1)
            fitting = max(_PARQUET_BATCH_BYTES // max(largest, 1), _PARQUET_BATCH_ROWS[0])
            for batch in file.iter_batches(batch_size=min(fitting, _PARQUET_BATCH_ROWS[1])):
                for values in batch.to_pylist():
                    count += 1
                    grown += _size(values)
                    yield raw_row(values, f"{name} row {count}")
                refuse_bomb(grown, size, name, "write it as .jsonl")
    except UnicodeDecodeError as error:
        problem = "invalid UTF-8 in the Parquet file"
        raise UserError(problem, name, "write the file again", code="data.not_utf8") from error
    except (OSError, pyarrow.ArrowException) as error:
        if getattr(error, "errno", None) is not None:  # pyarrow raises OSError without one for damaged pages
            raise unreadable(error, name) from error
        problem = f"cannot read the Parquet file ({error})"
        raise UserError(problem, name, "write the file again", code="data.invalid_parquet") from error


def _size(value: Any) -> int:
    """Characters and bytes of a value, which dictionary pages can repeat."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 8


def arrow_rows(split: Any, label: str) -> Iterator[RawRow]:
    """Rows of a `datasets.Dataset`, numbered from 1. Class labels become class names; images are not decoded."""
    import pyarrow  # slow to import, and only needed for Arrow files

    if len(split) > MAX_ROWS:
        raise too_many_rows(label, "download a part of it as a file")
    labels = {key: getattr(feature, "feature", feature) for key, feature in split.features.items()}  # also in lists
    classes = {key: names for key, feature in labels.items() if (names := getattr(feature, "names", None))}
    average = split.data.nbytes // max(len(split.data), 1)
    batch_rows = min(max(_BATCH_BYTES // max(average, 1), 1), _BATCH_ROWS)
    number = 0
    for table in split.with_format("arrow").iter(batch_size=batch_rows):
        try:  # invalid offsets or texts of a damaged file would read beyond the buffer
            table.validate(full=True)
        except pyarrow.ArrowInvalid as error:
            problem = f"cannot read the Arrow file ({error})"
            raise UserError(problem, label, "save the dataset again", code="data.invalid_arrow") from error
        for values in table.to_pylist():
            number += 1
            for key, names in classes.items():
                values[key] = _named(values[key], names)
            yield raw_row(values, f"{label} row {number}")


def arrow_files(split: Any) -> tuple[tuple[Path, ...], str]:
    """The Arrow files of a `datasets.Dataset` (none if it is in memory), and its column types."""
    return tuple(Path(file["filename"]) for file in split.cache_files), repr(split.features)


def _named(value: Any, names: list[str]) -> Any:
    """The name of a ClassLabel; None for -1, which marks a row without a label."""
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    if not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def is_disk_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder (a Dataset or a DatasetDict)."""
    return (folder / _SPLITS).is_file() or ((folder / _SET).is_file() and (folder / _STATE).is_file())


def load_disk_set(folder: Path, label: str) -> dict[str, Any]:
    """Split -> `datasets.Dataset`; a single Dataset is `train`. Raises UserError for incomplete or damaged folders."""
    import datasets  # slow to import, and only needed for these folders

    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing files, damaged JSON and damaged Arrow files raise different exceptions
        problem = f"cannot read the save_to_disk folder ({' '.join(str(error).split())[:200]})"
        raise UserError(problem, label, "write it again with save_to_disk", code="data.invalid_disk_set") from error
    if isinstance(loaded, datasets.DatasetDict):
        return {str(split): loaded[split] for split in loaded}
    return {"train": loaded}


def load_hub(name: str, subset: str | None) -> dict[str, Any]:
    """Split name -> `datasets.Dataset`. A cached copy is used if the Hub is unreachable.

    Raises UserError if the dataset cannot be loaded: no network, not found, several subsets and none selected.
    """
    failure: Exception | None = None
    try:
        with hub_or_cache(name) as failure:
            import datasets  # slow to import, and only needed for the Hub

            loaded = datasets.load_dataset(name, name=subset)
    except Exception as error:  # network, Hub and file formats raise dozens of different exceptions
        raise hub_error(failure or error, name, subset) from error
    return {str(split): loaded[split] for split in loaded}


@contextmanager
def hub_or_cache(name: str | None) -> Iterator[Exception | None]:
    """Context manager in which libraries load a dataset. If the Hub is unreachable, it yields the exception of the
    first request, and the libraries send no further requests; else it yields None.

    `name`: None for a dataset that is not on the Hub. Raises the Hub's exception if it rejects the request.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the import, which reads it
    import datasets
    from huggingface_hub import constants

    bound_hub_client()
    failure = _ask(name) if name else None
    # Whether the Hub rejected the request, as opposed to being unreachable or failing internally.
    words = ("RepositoryNotFound", "GatedRepo", "401 ", "403 ", "404 ")
    if failure is not None and any(word in f"{type(failure).__name__} {failure}" for word in words):
        raise failure
    places = [(datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, key) for module, key in places]
    try:
        for module, key in places if failure is not None else []:
            setattr(module, key, True)
        yield failure
    finally:
        for (module, key), value in zip(places, before, strict=True):
            setattr(module, key, value)


def _ask(name: str) -> Exception | None:
    """Request the dataset's information from the Hub: the exception, or None. Takes at most TRY_SECONDS."""
    from huggingface_hub import HfApi  # slow to import, and only needed for the Hub

    try:
        HfApi().dataset_info(name, timeout=TRY_SECONDS)
    except Exception as error:  # noqa: BLE001 - of network and Hub: the caller tells which
        return error
    return None


def hub_error(error: Exception, name: str, subset: str | None = None) -> UserError:
    """The error of loading a dataset of the Hub for the user."""
    text = " ".join(str(error).split())
    kind = type(error).__name__
    location = f"Hub dataset {name}" + (f" ({subset})" if subset else "")
    if "Config name is missing" in text or "BuilderConfig" in text:
        names = re.findall(r"'([^']+)'", text)
        listed = f" ({', '.join(names[:8])})" if names else ""
        hint = "--set data.subset=NAME, one of them"
        return UserError(f"the dataset has several subsets{listed}", location, hint, code="data.hub_subset")
    if "script" in text.lower() and isinstance(error, RuntimeError):
        hint = "export it as a file: ftbench runs no remote code"
        return UserError("the dataset needs a loading script", location, hint, code="data.hub_script")
    words = ("Offline", "Connect", "Timeout", "Timed out", "resolve", "Max retries", "Name or service", "ProxyError")
    if any(word in f"{kind} {error}" for word in words):
        problem = "file or folder not found, and the Hub is unreachable"
        hint = "check the name and the network, or use a local file or folder"
        return UserError(problem, location, hint, code="data.hub_unreachable")
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError") or "404" in text:
        hint = "check the name; private datasets need a token"
        problem = "dataset not found on the Hub, and no file or folder of this name"
        return UserError(problem, location, hint, code="data.hub_not_found")
    problem = f"cannot load the dataset ({kind}: {text[:200]})"
    return UserError(problem, location, "download it and use the file or folder", code="data.hub_failed")
