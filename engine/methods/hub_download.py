"""Download a model of the Hub with progress in bytes: safetensors, configuration and tokenizer only."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

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
