"""`ftbench pull` of catalog models from a Hub on this machine."""

from __future__ import annotations

import json

from command import ftbench
from model_hub import Hub

from engine.config.catalog import pulled_folder


def test_weights_in_another_format_are_not_downloaded(hub: Hub) -> None:
    hub.gate.set()
    done = ftbench("pull", "mistral-7b-v0.3", "--json")
    assert done.returncode == 0, done.stderr
    folder = pulled_folder("mistral-7b-v0.3")
    assert json.loads(done.stdout) == {
        "name": "mistral-7b-v0.3",
        "folder": str(folder),
        "source": "the Hub, mistralai/Mistral-7B-Instruct-v0.3",
    }
    assert {path.name for path in folder.glob("*.safetensors")} == {"model.safetensors"}


def test_a_gated_model_names_the_page_with_its_license(hub: Hub) -> None:
    hub.gated = True
    done = ftbench("pull", "llama-3.2-1b", "--json")
    assert done.returncode == 2
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["where"]) == ("model.gated", "meta-llama/Llama-3.2-1B-Instruct")
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct" in error["do"] and "HF_TOKEN" in error["do"]
    assert not pulled_folder("llama-3.2-1b").exists()
