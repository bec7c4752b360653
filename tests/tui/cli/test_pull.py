"""`ftbench pull` from a Hub on this machine, and from one that refuses the connection."""

from __future__ import annotations

import json

import pytest
from command import ftbench
from model_hub import Hub

from engine.config.catalog import pulled_folder


def test_weights_in_another_format_are_not_downloaded(hub: Hub) -> None:
    hub.gate.set()
    done = ftbench("pull", "smollm3-3b", "--json")
    assert done.returncode == 0, done.stderr
    folder = pulled_folder("smollm3-3b")
    assert json.loads(done.stdout) == {
        "name": "smollm3-3b",
        "folder": str(folder),
        "source": "the Hub, HuggingFaceTB/SmolLM3-3B",
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


def test_a_name_that_the_hub_does_not_have_is_a_user_error(hub: Hub) -> None:
    hub.gone = True
    done = ftbench("pull", "team/smal", "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], error["where"]) == (2, "model.not_found", "team/smal")


@pytest.mark.parametrize(
    ("name", "code"), [("olmo-3-7b", "model.hub_unreachable"), ("someone/something", "model.offline")]
)
def test_a_refused_connection_is_a_user_error(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # no service listens there
    done = ftbench("pull", name, "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (2, code)
