"""Data sets written by `save_to_disk` of the datasets library: one split, or a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.config.errors import UserError

_SET, _SPLITS = "dataset_info.json", "dataset_dict.json"
_STATE = "state.json"


def is_disk_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder (of a Dataset or of a DatasetDict)."""
    return (folder / _SPLITS).is_file() or ((folder / _SET).is_file() and (folder / _STATE).is_file())


def load_disk_set(folder: Path, label: str) -> dict[str, Any]:
    """Split -> `datasets.Dataset`; a single Dataset is `train`. UserError for incomplete or damaged folders."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing files, damaged JSON and Arrow fail in as many classes
        what = f"cannot read the data set that save_to_disk wrote ({' '.join(str(error).split())[:200]})"
        raise UserError(what, label, "write it again with save_to_disk", code="data.invalid_disk_set") from error
    if isinstance(found, datasets.DatasetDict):
        return {str(split): found[split] for split in found}
    return {"train": found}
