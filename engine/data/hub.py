"""Data sets of the Hugging Face Hub, by the name in the preset: nothing else is loaded, no remote code is run."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.config.errors import UserError

TRY_SECONDS = 5.0
"""Without an answer in this time the Hub counts as out of reach."""


def load_hub(name: str, subset: str | None) -> dict[str, Any]:
    """Every split under its own name, as `datasets.Dataset`. Out of reach of the Hub a cached copy is used.

    Raises UserError when the set cannot be loaded: no network, no such set, several subsets and none chosen.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets

    reached = _ask(name)
    if reached is not None and _is_answer(reached):
        raise _unavailable(reached, name, subset) from reached
    try:
        with _offline(reached is not None):
            found = datasets.load_dataset(name, name=subset)
    except Exception as error:  # the network, the Hub and its file formats fail in dozens of classes
        raise _unavailable(reached or error, name, subset) from error
    return {str(split): found[split] for split in found}


def _ask(name: str) -> Exception | None:
    """Ask the Hub for the data set once: what went wrong, or None. Takes at most TRY_SECONDS.

    In a thread of its own, because looking up a host name can take longer than any timeout of a request.
    """
    from huggingface_hub import HfApi, get_session

    api, _ = HfApi(), get_session()  # imports are no part of the try
    answers: list[Exception | None] = []

    def ask() -> None:
        try:
            api.dataset_info(name, timeout=TRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - re-raised by the caller, in the main thread
            answers.append(error)
        else:
            answers.append(None)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TRY_SECONDS)
    return answers[0] if answers else TimeoutError(f"no answer in {TRY_SECONDS:g} s")


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    """Keep the libraries from asking the Hub again where it is known to be out of reach."""
    import datasets
    from huggingface_hub import constants

    places = [(datasets.config, "HF_HUB_OFFLINE"), (constants, "HF_HUB_OFFLINE")]
    before = [getattr(module, key) for module, key in places]
    try:
        for module, key in places if on else []:
            setattr(module, key, True)
        yield
    finally:
        for (module, key), value in zip(places, before, strict=True):
            setattr(module, key, value)


def _is_answer(error: Exception) -> bool:
    """Whether the Hub said no, rather than nothing or that it has a problem of its own."""
    words = ("RepositoryNotFound", "GatedRepo", "401 ", "403 ", "404 ")
    return any(word in f"{type(error).__name__} {error}" for word in words)


def _out_of_reach(error: Exception) -> bool:
    words = ("Offline", "Connect", "Timeout", "Timed out", "resolve", "Max retries", "Name or service", "ProxyError")
    return any(word in f"{type(error).__name__} {error}" for word in words)


def _unavailable(error: Exception, name: str, subset: str | None) -> UserError:
    text = " ".join(str(error).split())
    kind = type(error).__name__
    where = f"Hub data set {name}" + (f" ({subset})" if subset else "")
    if "Config name is missing" in text or "BuilderConfig" in text:
        names = re.findall(r"'([^']+)'", text)
        listed = f" ({', '.join(names[:8])})" if names else ""
        do = "set data.subset to one of them"
        return UserError(f"it has several subsets{listed}", where, do, code="data.hub_subset")
    if "script" in text.lower() and isinstance(error, RuntimeError):
        do = "ftbench runs no remote code: export it as a file"
        return UserError("it needs a loading script", where, do, code="data.hub_script")
    if _out_of_reach(error):
        what = "no such file or folder, and the Hub cannot be reached to look for a data set of this name"
        do = "check the name and the network, or name a local file or folder"
        return UserError(what, where, do, code="data.hub_unreachable")
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError") or "404" in text:
        do = "check the name; private sets need a token"
        return UserError("no such data set, and no file or folder of that name", where, do, code="data.hub_not_found")
    what = f"cannot be loaded ({kind}: {text[:200]})"
    return UserError(what, where, "download it and name the file or folder", code="data.hub_failed")
