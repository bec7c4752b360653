"""Data sets of the Hugging Face Hub, by the name the preset gives: nothing else is loaded, no remote code is run."""

from __future__ import annotations

import os
import re
from typing import Any

from engine.contract.errors import UserError
from engine.data.raw import ROWS_LIMIT, Raw, row


def read_hub(name: str, subset: str | None) -> dict[str, list[Raw]]:
    """The rows of every split, under the split's own name. Class numbers become class names.

    Raises UserError when the set cannot be had: no network, no such set, several configurations and none chosen.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    try:
        found = datasets.load_dataset(name, name=subset)
    except Exception as error:  # the network, the Hub and its file formats fail in dozens of classes
        raise _unavailable(error, name, subset) from error
    return {str(split): _rows(found[split], f"{name} {split}") for split in found}


def _rows(split: Any, label: str) -> list[Raw]:
    if len(split) > ROWS_LIMIT:
        raise UserError(f"more than {ROWS_LIMIT:,} rows", label, "download a part of it as a file")
    classes = {key: kind.names for key, kind in split.features.items() if getattr(kind, "names", None)}
    rows = []
    for number, values in enumerate(split, 1):
        named = {key: _class_name(value, classes.get(key)) for key, value in values.items()}
        rows.append(row(named, f"{label} row {number}"))
    return rows


def _class_name(value: Any, names: list[str] | None) -> Any:
    """A ClassLabel's name; -1 marks a row without a label."""
    if names is None or not isinstance(value, int):
        return value
    return names[value] if 0 <= value < len(names) else None


def _unavailable(error: Exception, name: str, subset: str | None) -> UserError:
    text = " ".join(str(error).split())
    kind = type(error).__name__
    where = f"Hub data set {name}" + (f" ({subset})" if subset else "")
    if "Config name is missing" in text or "BuilderConfig" in text:
        names = re.findall(r"'([^']+)'", text)
        listed = f" ({', '.join(names[:8])})" if names else ""
        return UserError(f"it has several subsets{listed}", where, "set data.subset to one of them")
    if "script" in text.lower() and isinstance(error, RuntimeError):
        return UserError(
            "it needs a script of its own to be read", where, "ftbench runs no remote code: export it as a file"
        )
    if kind == "DatasetNotFoundError" or "404" in text:
        return UserError(
            "no such data set, nor a file of that name here", where, "check the name; private sets need a token"
        )
    offline = any(word in kind + text for word in ("Offline", "Connect", "Timeout", "resolve", "Max retries"))
    if offline:
        return UserError("the Hub cannot be reached", where, "check the network, or name a local file or folder")
    return UserError(f"cannot be loaded ({kind}: {text[:200]})", where, "download it and name the file or folder")
