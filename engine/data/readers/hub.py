"""Load datasets from the Hugging Face Hub. Only the dataset in the preset is loaded; no remote code is run."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from engine.config.errors import UserError

TRY_SECONDS = 5.0
"""Timeout of the first request; without a response the Hub counts as unreachable."""


def load_hub(name: str, subset: str | None) -> dict[str, Any]:
    """Split name -> `datasets.Dataset`. A cached copy is used if the Hub is unreachable.

    Raises UserError if the dataset cannot be loaded: no network, not found, several subsets and none selected.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the import, which reads it
    import datasets  # slow to import, and only needed for the Hub

    failure = _ask(name)
    if failure is not None and _is_response(failure):
        raise hub_error(failure, name, subset) from failure
    try:
        with _offline(failure is not None):
            loaded = datasets.load_dataset(name, name=subset)
    except Exception as error:  # network, Hub and file formats raise dozens of different exceptions
        raise hub_error(failure or error, name, subset) from error
    return {str(split): loaded[split] for split in loaded}


@contextmanager
def hub_or_cache(name: str | None) -> Iterator[None]:
    """Context in which other libraries load this dataset: without requests if the Hub is unreachable.

    None: a dataset that is not on the Hub. Raises the Hub's exception if it rejects the request.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before the import, which reads it
    import datasets  # noqa: F401 - `_offline` changes it

    failure = _ask(name) if name else None
    if failure is not None and _is_response(failure):
        raise failure
    with _offline(failure is not None):
        yield


def _ask(name: str) -> Exception | None:
    """Request the dataset's information from the Hub: the exception, or None. Takes at most TRY_SECONDS.

    The request runs in a thread, because resolving a host name can take longer than the request's timeout.
    """
    from huggingface_hub import HfApi, get_session  # slow to import, and only needed for the Hub

    api, _ = HfApi(), get_session()  # their imports must not count against the timeout
    responses: list[Exception | None] = []

    def request() -> None:
        try:
            api.dataset_info(name, timeout=TRY_SECONDS)
        except Exception as error:  # noqa: BLE001 - re-raised by the caller, in the main thread
            responses.append(error)
        else:
            responses.append(None)

    thread = threading.Thread(target=request, daemon=True)
    thread.start()
    thread.join(TRY_SECONDS)
    return responses[0] if responses else TimeoutError(f"no response within {TRY_SECONDS:g} s")


@contextmanager
def _offline(on: bool) -> Iterator[None]:
    """Prevent further requests by the libraries if the Hub is unreachable."""
    import datasets  # loaded already by the caller
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


def _is_response(error: Exception) -> bool:
    """Whether the Hub rejected the request, as opposed to being unreachable or failing internally."""
    words = ("RepositoryNotFound", "GatedRepo", "401 ", "403 ", "404 ")
    return any(word in f"{type(error).__name__} {error}" for word in words)


def _out_of_reach(error: Exception) -> bool:
    words = ("Offline", "Connect", "Timeout", "Timed out", "resolve", "Max retries", "Name or service", "ProxyError")
    return any(word in f"{type(error).__name__} {error}" for word in words)


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
    if _out_of_reach(error):
        problem = "file or folder not found, and the Hub is unreachable"
        hint = "check the name and the network, or use a local file or folder"
        return UserError(problem, location, hint, code="data.hub_unreachable")
    if kind in ("DatasetNotFoundError", "RepositoryNotFoundError") or "404" in text:
        hint = "check the name; private datasets need a token"
        problem = "dataset not found on the Hub, and no file or folder of this name"
        return UserError(problem, location, hint, code="data.hub_not_found")
    problem = f"cannot load the dataset ({kind}: {text[:200]})"
    return UserError(problem, location, "download it and use the file or folder", code="data.hub_failed")
