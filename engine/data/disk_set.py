"""Load datasets that `save_to_disk` of the datasets library wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.config.errors import UserError

_SET, _SPLITS = "dataset_info.json", "dataset_dict.json"
_STATE = "state.json"


def is_disk_set(folder: Path) -> bool:
    """Whether `save_to_disk` wrote the folder (a Dataset or a DatasetDict)."""
    return (folder / _SPLITS).is_file() or ((folder / _SET).is_file() and (folder / _STATE).is_file())


def load_disk_set(folder: Path, label: str) -> dict[str, Any]:
    """Split -> `datasets.Dataset`; a single Dataset is `train`. Raises UserError for incomplete or damaged folders."""
    import datasets  # slow to import, and only needed for these folders

    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # missing files, damaged JSON and damaged Arrow files raise different exceptions
        what = f"cannot read the save_to_disk folder ({' '.join(str(error).split())[:200]})"
        raise UserError(what, label, "write it again with save_to_disk", code="data.invalid_disk_set") from error
    if isinstance(found, datasets.DatasetDict):
        return {str(split): found[split] for split in found}
    return {"train": found}
