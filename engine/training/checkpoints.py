"""Atomic checkpoints: a checkpoint is either complete or ignored.

A checkpoint is written under a temporary name, its files are flushed, its manifest (sizes and SHA-256) is written last,
and then it is renamed. Readers trust the manifest, not the name: a checkpoint that differs from its manifest, or lacks
a required file, is incomplete, and an older one is used.

Large files are hashed while they are written, and weights are loaded without a second copy of them. safetensors and
torch have no writer that hashes. `torch.save` accepts a file object; `safetensors.torch.save_file` does not, and `save`
returns a copy of all tensors, so the format, a length, a JSON header and the tensors' bytes
(github.com/huggingface/safetensors, README, "Format"), is written here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import pickle
import re
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError, safe_open

from engine.config import schema
from engine.config.errors import reason_of
from engine.config.files import (
    check_no_link_above,
    file_sha256,
    read_regular,
    remove_tree,
    sync_folder,
    write_atomically,
)
from engine.training.guards import DiskFull, is_disk_full

MANIFEST = "manifest.json"
MAX_MANIFEST = 16 << 20
"""Bytes; a larger file is not a manifest."""
PREFIX = "step-"
NAME = re.compile(rf"{PREFIX}(0|[1-9][0-9]{{0,17}})", re.ASCII)
WRITING = ".writing-"
SHARDED = "sharded"
"""Folder in a checkpoint with weights and optimizer state of several ranks (`training_state`)."""
OPTIMIZER_FILE, RANDOM_FILE, SCHEDULE_FILE, PROGRESS_FILE = (
    "optimizer.pt",
    "rng_state.pth",
    "scheduler.pt",
    "trainer_state.json",
)
REQUIRED = (OPTIMIZER_FILE, RANDOM_FILE, SCHEDULE_FILE, PROGRESS_FILE)
"""Files of every checkpoint, under transformers' names; the weights are `*.safetensors`."""


class FileFacts(msgspec.Struct):
    """Manifest entry of one file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct):
    step: int
    files: dict[str, FileFacts]


@dataclass(frozen=True)
class SavedCheckpoint:
    """A complete checkpoint."""

    step: int
    folder: Path
    bytes: int
    seconds: float
    blocked: float = 0.0
    """Seconds for which training waited: for this checkpoint, and before it for an earlier one."""


class PendingCheckpoint:
    """A checkpoint being written: write to `folder`, then read `done`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hashed: dict[str, FileFacts] = {}
        """Files that were hashed and flushed while they were written, by name; the others are read again."""
        self.done: SavedCheckpoint


@contextlib.contextmanager
def writing(checkpoints: Path, step: int) -> Iterator[PendingCheckpoint]:
    """Create `step-N` from the files that the body writes to `folder`; on any error all of them are deleted.

    Raises DiskFull if there is not enough space; earlier checkpoints are not touched.
    """
    started = time.monotonic()
    check_no_link_above(checkpoints / PREFIX)
    checkpoints.mkdir(mode=0o700, exist_ok=True)
    final = checkpoints / f"{PREFIX}{step}"
    named = f"the checkpoint at step {step} in {checkpoints}"
    with folder_atomically(checkpoints / f"{WRITING}{step}", final, named) as temporary:
        saving = PendingCheckpoint(temporary)
        yield saving
        files = dict(saving.hashed)
        for name, status in sorted(_entries(temporary).items()):
            if name not in files:
                with (temporary / name).open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                    os.fsync(file.fileno())
                files[name] = FileFacts(status.st_size, digest)
        text = msgspec.json.encode(Manifest(step, files))
        write_atomically(temporary / MANIFEST, msgspec.json.format(text, indent=1))
        sync_folder(temporary)
        size = _size(temporary)
    saving.done = SavedCheckpoint(step, final, size, time.monotonic() - started)


@contextlib.contextmanager
def folder_atomically(temporary: Path, final: Path, text: str = "") -> Iterator[Path]:
    """The body writes to `temporary`, which is then renamed to `final`; on any error `temporary` is deleted.

    Raises DiskFull if there is not enough space for `text`, by default `final`.
    """
    check_no_link_above(temporary)
    remove_tree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(mode=0o700)
        yield temporary
        remove_tree(final, ignore_errors=True)  # an incomplete one, from before a resume
        temporary.replace(final)
        sync_folder(final.parent)
    except BaseException as error:
        remove_tree(temporary, ignore_errors=True)
        if is_disk_full(error):
            raise DiskFull(f"no disk space for {text or final}") from error
        raise


Losses = Sequence[tuple[int, float]]
"""(step, validation loss) in the order of steps."""


@dataclass(frozen=True)
class WeightSelection:
    """Which weights a training keeps, and whether it stops early, as a function of its validation losses.

    Every checkpoint has the losses: a worker that resumes from one knows exactly what the worker that wrote it knew.
    """

    best: bool = False
    """Whether the weights with the lowest loss are kept, else those of the last step."""
    patience: int | None = None

    @classmethod
    def of(cls, train: schema.Train) -> WeightSelection:
        return cls(train.select == "best", train.patience)

    def best_step(self, losses: Losses, until: float = math.inf) -> int | None:
        """The step with the lowest loss up to a step, the first of equal ones; None if the last weights are kept.

        Also None if no loss is finite.
        """
        finite = [(loss, step) for step, loss in losses if step <= until and math.isfinite(loss)]
        return min(finite)[1] if self.best and finite else None

    def ends(self, losses: Losses) -> bool:
        """Whether the last `patience` validations had no new lowest loss."""
        if self.patience is None:
            return False
        lowest, since = math.inf, 0
        for _, loss in losses:
            lowest, since = (loss, 0) if loss < lowest else (lowest, since + 1)
        return since >= self.patience


LAST_WEIGHTS = WeightSelection()


def validation_losses(log_history: Sequence[dict[str, Any]]) -> Losses:
    """The validation losses in a `log_history`. Raises KeyError, TypeError or ValueError if it is damaged."""
    return [(int(entry["step"]), float(entry["eval_loss"])) for entry in log_history if "eval_loss" in entry]


def losses_of_checkpoint(checkpoint: Path) -> Losses:
    """The validation losses until a complete checkpoint was saved."""
    return validation_losses(json.loads(read_regular(checkpoint / PROGRESS_FILE))["log_history"])


Check = Callable[[Path], str | None]
"""Returns what is wrong with a checkpoint folder, None if nothing is."""


def latest_complete(
    checkpoints: Path, content: Check = lambda folder: None
) -> tuple[SavedCheckpoint | None, list[str]]:
    """The latest complete checkpoint, and one sentence for each later one that is incomplete.

    `content` checks the files of a checkpoint that is complete by its manifest.
    """
    problems: list[str] = []
    for step, folder in sorted(_named(checkpoints), reverse=True):
        problem = problem_with(folder) or content(folder)
        if problem is None:
            return SavedCheckpoint(step, folder, _size(folder), 0.0), problems
        problems.append(f"ignoring incomplete checkpoint {folder.name}: {problem}")
    return None, problems


def problem_with(folder: Path) -> str | None:
    """What is wrong with a checkpoint, None if it is complete. Never raises."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return "it is not a directory"
        files = _entries(folder)
        if MANIFEST not in files:
            return "it has no manifest.json"
        odd = next((name for name, status in sorted(files.items()) if not stat.S_ISREG(status.st_mode)), None)
        if odd is not None:
            return f"{odd} is not a regular file"
        if files.pop(MANIFEST).st_size > MAX_MANIFEST:
            return "manifest.json is too large"
        manifest = msgspec.json.decode(read_regular(folder / MANIFEST, MAX_MANIFEST), type=Manifest)
        if differs := _differs(manifest, folder, files):
            return differs
        changed = (name for name, facts in manifest.files.items() if file_sha256(folder / name) != facts.sha256)
        return next((f"{name} has changed" for name in changed), None)
    except (OSError, ValueError, RecursionError) as error:
        return f"cannot read it: {reason_of(error)}"


def _differs(manifest: Manifest, folder: Path, present: dict[str, os.stat_result]) -> str | None:
    """How the manifest differs from the folder's name, from its files, or from the required files."""
    if folder.name != f"{PREFIX}{manifest.step}":
        return f"manifest.json is of step {manifest.step}"
    if any(name.startswith(f"{SHARDED}/") for name in manifest.files):
        needed = [*(name for name in REQUIRED if name != OPTIMIZER_FILE), f"{SHARDED}/.metadata"]
    else:
        has_weights = any(name.endswith(".safetensors") for name in manifest.files)
        needed = [*REQUIRED, *([] if has_weights else ["*.safetensors"])]
    for name in [*manifest.files, *needed]:
        if name not in present:
            return f"{name} is missing"
    for name, status in present.items():
        facts = manifest.files.get(name)
        if facts is None:
            return f"{name} is not in manifest.json"
        if status.st_size != facts.bytes:
            return f"{name} has {status.st_size} of {facts.bytes} bytes"
    return None


def rotate(checkpoints: Path, keep: int, newest: int, best: Callable[[int], int | None] = lambda step: None) -> None:
    """Delete all but the latest `keep` checkpoints up to step `newest`, which was just saved, and the best of each.

    Later ones are deleted too: the run resumed from an older one because they were incomplete. `best`: the step whose
    weights would be selected if training ended at this step.
    """
    named = sorted(_named(checkpoints), reverse=True)
    latest = [step for step, _ in named if step <= newest][:keep]
    kept = {*latest, *map(best, latest)}
    for folder in [folder for step, folder in named if step not in kept]:
        if not folder.is_symlink():
            # Delete the manifest first: a partly deleted checkpoint must not look complete.
            remove_tree(folder / MANIFEST, ignore_errors=True)
        remove_tree(folder, ignore_errors=True)


def clear_unfinished(checkpoints: Path) -> None:
    """Delete the unfinished checkpoints of killed workers."""
    for folder in checkpoints.glob(f"{WRITING}*"):
        remove_tree(folder, ignore_errors=True)


class SaveTimer:
    """When to save: every `every` steps, or for 0 every tenth of the run but at least 30 s apart."""

    def __init__(self, every: int, steps: int, min_seconds: float = 30.0) -> None:
        self.every, self.min_seconds = every or max(1, steps // 10), 0.0 if every else min_seconds
        self.last = time.monotonic()

    def take_if_due(self, step: int) -> bool:
        """Whether a checkpoint is due after this step; if so, restarts the interval."""
        if step % self.every or time.monotonic() - self.last < self.min_seconds:
            return False
        self.last = time.monotonic()
        return True


def _named(checkpoints: Path) -> list[tuple[int, Path]]:
    """All entries named like a checkpoint, with their step."""
    matches = ((NAME.fullmatch(path.name), path) for path in checkpoints.glob(f"{PREFIX}*"))
    return [(int(match[1]), path) for match, path in matches if match]


def _entries(folder: Path) -> dict[str, os.stat_result]:
    """Everything below the folder except directories, by relative path; links are not followed."""
    statuses: dict[str, os.stat_result] = {}
    todo = [folder]
    while todo:
        with os.scandir(todo.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    todo.append(Path(entry.path))
                else:
                    statuses[str(Path(entry.path).relative_to(folder))] = entry.stat(follow_symlinks=False)
    return statuses


def _size(folder: Path) -> int:
    return sum(status.st_size for status in _entries(folder).values())


CHUNK = 1 << 20
"""Bytes that are hashed and then written: few enough to be in the CPU's cache for both."""
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""Names of data types in safetensors."""


class HashingFile:
    """A new file that is hashed while it is written; closing it flushes it to disk."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb", buffering=0)
        self._digest, self._bytes = hashlib.sha256(), 0
        self.error: OSError | None = None
        """The first error of writing; torch's archive writer raises another error instead."""

    def write(self, data: Any) -> int:
        """Write all bytes of a buffer. Raises OSError."""
        whole = memoryview(data).cast("B")
        try:
            for start in range(0, len(whole), CHUNK):
                part = whole[start : start + CHUNK]
                self._digest.update(part)
                while part:
                    part = part[self._file.write(part) :]
        except OSError as error:
            self.error = self.error or error
            raise
        self._bytes += len(whole)
        return len(whole)

    def flush(self) -> None:
        """Nothing is buffered; `torch.save` calls it."""

    def __enter__(self) -> HashingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
                os.fsync(self._file.fileno())
        finally:
            self._file.close()

    @property
    def facts(self) -> FileFacts:
        return FileFacts(self._bytes, self._digest.hexdigest())


def write_pickle(path: Path, content: Any) -> FileFacts:
    """`torch.save` to a new file. Raises OSError."""
    with HashingFile(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            raise file.error or error from None
    return file.facts


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> FileFacts:
    """Write tensors to a new file in the safetensors format, one at a time. Raises OSError."""
    # As safetensors does: the largest elements first, so that every tensor is aligned to its own.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with HashingFile(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            file.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return file.facts


def write_configuration(model: Any, folder: Path) -> None:
    """Write the configuration of a transformers model, so that `from_pretrained` can load the checkpoint."""
    model.config.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)


def stored_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters and buffers that a model stores; of tied ones only the first."""
    names: dict[int, str] = {}
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        names.setdefault(id(tensor), name)
    return {name: state[name].detach() for name in names.values()}


@torch.no_grad()
def load_safetensors(model: torch.nn.Module, path: Path) -> None:
    """Copy the tensors of a safetensors file into a model's, one at a time.

    Raises KeyError if it has other tensors than `stored_tensors`, ValueError if their shapes or data types differ.
    """
    own = model.state_dict(keep_vars=True)
    with safe_open(path, "pt") as file:
        stored = set(file.keys())
        if unknown := sorted(stored - own.keys()):
            raise KeyError(f"{path.name} has {unknown[0]}, and the model does not")
        loaded = {id(own[name]) for name in stored}
        if missing := [name for name, tensor in own.items() if id(tensor) not in loaded]:
            raise KeyError(f"{path.name} lacks {missing[0]}")
        for name in file.keys():  # noqa: SIM118 - not a mapping
            tensor = file.get_tensor(name)
            if (tensor.shape, tensor.dtype) != (own[name].shape, own[name].dtype):
                given, wanted = (f"{tuple(t.shape)} {t.dtype}" for t in (tensor, own[name]))
                raise ValueError(f"{name} in {path.name} is {given}, in the model {wanted}")
            own[name].copy_(tensor)


def unloadable(folder: Path) -> str | None:
    """The first file that cannot be read and why, None if all can. Pickles are opened without executing code."""
    for path in sorted(folder.iterdir()):
        try:
            if path.name == PROGRESS_FILE:
                state, step = json.loads(read_regular(path)), int(folder.name.rpartition("-")[2])
                if not isinstance(state, dict) or state.get("global_step") != step:
                    raise ValueError(f"global_step is not {step}")
                validation_losses(state["log_history"])
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt") as file:
                    file.keys()
            elif path.suffix in (".pt", ".pth"):
                torch.load(path, map_location="meta", mmap=True, weights_only=True)
        except (
            OSError,
            ValueError,
            RuntimeError,
            KeyError,
            TypeError,
            RecursionError,
            EOFError,
            SafetensorError,
            pickle.UnpicklingError,
        ) as error:
            return f"cannot read {path.name}: {' '.join(str(error).split())[:200] or type(error).__name__}"
    return None
