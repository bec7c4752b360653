"""Push a checked artifact to the Hugging Face Hub: one commit to a repository that is private unless asked otherwise.

The token is the one that `hf auth login` stored, or HF_TOKEN; ftbench takes none and stores none.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
)

from engine.config.errors import RunFailed, UserError
from engine.config.files import file_sha256
from engine.config.http_client import bound_hub_client
from engine.config.model_files import is_offline
from engine.config.text import amount
from engine.runs.run.export_formats import export_formats
from engine.runs.run.exports import FIDELITY, read_fidelity

CARD = "README.md"
WEIGHTS = (".safetensors", ".bin", ".index.json")
"""Endings of files that decide which weights a library loads from a repository."""
FORBIDDEN = (401, 403)
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""Of huggingface_hub's HTTP client, which is httpx in version 1 and httpx2 in version 2."""
MAX_REASON = 200


@dataclass(frozen=True)
class PushResult:
    url: str
    repository: str
    private: bool
    files: int
    notes: list[str] = field(default_factory=list)
    """What others should know before they load the artifact."""


def check_repository(repository: str, public: bool) -> str:
    """The full name of a repository to which the user's account can push; nothing is created.

    Raises UserError without a token or a connection, for an invalid name, and for a public repository without `public`.
    """
    if is_offline():
        raise UserError("HF_HUB_OFFLINE forbids requests to the Hub", repository, "unset it to push", "push.offline")
    with _hub_errors(repository):
        api = HfApi()
        account = api.whoami()["name"]  # fails here without a valid token
        name = repository if "/" in repository else f"{account}/{repository}"
        existing = _found(api, name)
    if existing is not None and not existing.private and not public:
        raise UserError("the repository is public", name, "use --public, or a new repository", "push.public")
    return name


def push(folder: Path, repository: str, public: bool, progress: Callable[..., None]) -> PushResult:
    """Upload the files of an artifact as one commit; the repository is created if it does not exist.

    Raises UserError as `check_repository` does, if a file has changed since the check, and if the repository has other
    weights, which libraries could load instead; RunFailed if the upload fails. Without the commit nothing is visible.
    """
    fidelity, again = read_fidelity(folder), "export it again with --overwrite"
    if not fidelity.files:
        raise UserError("the check recorded no file hashes", str(folder / FIDELITY), again, "push.changed")
    for file, expected in fidelity.files.items():  # what was checked is what is pushed
        path = folder / file
        if not path.is_file() or file_sha256(path) != expected:
            raise UserError("changed since it was checked", str(path), again, "push.changed")
    name = check_repository(repository, public)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {path.relative_to(folder).as_posix() for path in paths}
    with _hub_errors(name):
        api = HfApi()
        existing = _found(api, name)
        others = {file.rfilename for file in existing.siblings or []} - names if existing else set()
        weights = sorted(other for other in others if other.endswith(WEIGHTS))
        if weights and not export_formats()[fidelity.kind].module:
            problem = f"the repository has other weights: {', '.join(weights[:3])}"
            raise UserError(problem, name, "delete them there, or use a new repository", "push.other_weights")
        if existing is None:
            progress(f"creating {name}")
            api.create_repo(name, private=not public, exist_ok=True)
        progress(f"uploading {amount(len(paths), 'file')} to {name}")
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in paths]
        message = f"Upload {fidelity.run} ({fidelity.kind}, {fidelity.type})"
        commit = api.create_commit(name, operations, commit_message=message)
    private = not public if existing is None else bool(existing.private)
    notes, adapter = [], folder / "adapter_config.json"
    if adapter.exists():
        base = json.loads(adapter.read_text("utf-8"))["base_model_name_or_path"]
        if Path(base).is_absolute():
            notes.append(f"the adapter's base is the local folder {base}: others cannot load it")
    return PushResult(str(commit.commit_url), name, private, len(paths), notes)


def _found(api: HfApi, name: str) -> Any:
    """Information on a repository; None if it does not exist or the account cannot see it."""
    try:
        return api.model_info(name)
    except RepositoryNotFoundError:
        return None


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn the Hub's errors into one line each."""
    bound_hub_client()
    try:
        yield
    except LocalTokenNotFoundError as error:
        hint = "run `hf auth login` first"
        raise UserError("no Hub token on this machine", name, hint, "push.no_token") from error
    except HFValidationError as error:
        problem = f"invalid repository name: {_reason(error)}"
        raise UserError(problem, name, "use OWNER/NAME", "push.repository_name") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status in FORBIDDEN:
            hint = "check that the token has write access: `hf auth login`"
            raise UserError(f"the Hub refused access (HTTP {status})", name, hint, "push.forbidden") from error
        raise RunFailed(f"cannot push to {name}: {_reason(error)}", "push.failed") from error
    except (HTTP_ERROR, OSError) as error:
        raise UserError(f"the Hub is unreachable: {_reason(error)}", name, "try again", "push.unreachable") from error
    except ValueError as error:  # the Hub's validation of the model card
        raise RunFailed(f"cannot push to {name}: {_reason(error)}", "push.failed") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_REASON]
