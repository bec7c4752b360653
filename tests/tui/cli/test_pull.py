"""`ftbench pull` from a Hub on this machine, and from one that refuses the connection."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from command import FTBENCH, MICRO, ftbench
from model_hub import NAME, Hub

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.home import config_file
from engine.runs.cleaning import list_stored_items


def test_weights_in_another_format_are_not_downloaded(hub: Hub) -> None:
    hub.gate.set()
    done = ftbench("pull", "smollm3-3b", "--json")
    assert done.returncode == 0, done.stderr
    folder = pulled_folder("smollm3-3b")
    answer = json.loads(done.stdout)
    assert set(answer) == {"name", "folder", "source"}
    assert (answer["name"], answer["folder"]) == ("smollm3-3b", str(folder))
    assert answer["source"].endswith(CATALOG["smollm3-3b"].hub) and "cache" not in answer["source"]
    assert {path.name for path in folder.glob("*.safetensors")} == {"model.safetensors"}


def test_a_gated_model_names_the_page_with_its_license(hub: Hub) -> None:
    hub.gated = True
    done = ftbench("pull", "llama-3.2-1b", "--json")
    assert done.returncode == 2
    error = json.loads(done.stderr)["error"]
    assert (error["code"], error["location"]) == ("model.gated", "meta-llama/Llama-3.2-1B-Instruct")
    assert "https://huggingface.co/meta-llama/Llama-3.2-1B-Instruct" in error["hint"] and "HF_TOKEN" in error["hint"]
    assert not pulled_folder("llama-3.2-1b").exists()


@pytest.mark.slow
def test_after_a_token_is_given_a_gated_model_is_downloaded_and_planned(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walk of a user: refused without and with an unknown token, then downloaded, planned and run offline."""
    hub.gate.set()
    hub.token = "hf_accepted"
    for token in ("", "hf_unknown"):
        monkeypatch.setenv("HF_TOKEN", token)
        done = ftbench("pull", NAME, "--json")
        error = json.loads(done.stderr)["error"]
        assert (done.returncode, error["code"]) == (2, "model.gated"), done.stderr
        assert f"https://huggingface.co/{NAME}" in error["hint"] and "hf auth login" in error["hint"]
        assert token not in done.stdout + done.stderr or not token
    monkeypatch.setenv("HF_TOKEN", "hf_accepted")
    assert ftbench("pull", NAME).returncode == 0
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    planned = ftbench("plan", "demo-lora", "--model", NAME, "--quick", "--json")
    assert planned.returncode == 0, planned.stderr
    done = ftbench("run", "demo-lora", "--model", NAME, *MICRO, "--json")
    assert done.returncode == 0, done.stdout + done.stderr


def test_models_of_the_hub_are_kept_in_the_home(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key moves everything off a small disk, unless the environment names another place."""
    hub.gate.set()
    home = tmp_path / "volume"
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(f'home = "{home}"\n')
    elsewhere = json.loads(ftbench("pull", NAME, "--json").stdout)
    assert not Path(elsewhere["folder"]).is_relative_to(home)  # HF_HOME is set
    monkeypatch.delenv("HF_HOME")
    inside = json.loads(ftbench("pull", NAME, "--json").stdout)
    assert Path(inside["folder"]).is_relative_to(home / "cache" / "hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert ftbench("plan", "demo-lora", "--model", NAME, "--quick", "--json").returncode == 0


def shards(hub: Hub) -> None:
    """A model in two files, of which the second is held back."""
    whole = hub.folder / "model.safetensors"
    for number in (1, 2):
        (hub.folder / f"part-{number}.safetensors").write_bytes(whole.read_bytes())
    whole.unlink()
    index = {"weight_map": {"a": "part-1.safetensors", "b": "part-2.safetensors"}}
    (hub.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    hub.held = "part-2.safetensors"


def test_a_killed_download_continues_with_the_missing_file(hub: Hub) -> None:
    shards(hub)
    process = subprocess.Popen([FTBENCH, "pull", "smollm3-3b"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(partial_files(".cache/huggingface/download/part-1.safetensors.metadata")):  # the last of it
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    for member in [*psutil.Process(process.pid).children(recursive=True), process]:
        member.kill()
    process.wait()
    assert not pulled_folder("smollm3-3b").exists()
    assert ("models", "smollm3-3b.partial") in [(item.kind, item.name) for item in list_stored_items(Path("none"))]
    hub.sent.clear()
    hub.gate.set()
    done = ftbench("pull", "smollm3-3b", "--json")
    assert done.returncode == 0, done.stderr
    assert "part-2.safetensors" in hub.sent and "part-1.safetensors" not in hub.sent
    names = {path.name for path in pulled_folder("smollm3-3b").glob("*.safetensors")}
    assert names == {"part-1.safetensors", "part-2.safetensors"} and not list(partial_files("*"))


def partial_files(name: str) -> Iterator[Path]:
    return pulled_folder("smollm3-3b.partial").glob(name)


def test_a_connection_that_is_lost_again_and_again_is_tried_again(hub: Hub) -> None:
    shards(hub)
    hub.gate.set()
    hub.dropped = 8  # huggingface_hub itself tries six times
    done = ftbench("pull", "smollm3-3b", "--json")
    assert done.returncode == 0, done.stderr
    assert hub.dropped == 0 and hub.sent.count("part-1.safetensors") == 1


def test_a_model_in_the_cache_of_the_hub_is_not_downloaded_again(hub: Hub) -> None:
    hub.gate.set()
    assert ftbench("pull", CATALOG["smollm3-3b"].hub).returncode == 0
    hub.sent.clear()
    done = ftbench("pull", "smollm3-3b", "--json")
    answer = json.loads(done.stdout)
    assert answer["source"] == f"the Hub's cache, {CATALOG['smollm3-3b'].hub}" and "models--" in answer["folder"]
    assert hub.sent == [] and not pulled_folder("smollm3-3b").exists()


def test_a_model_larger_than_the_disk_is_refused_before_the_download(hub: Hub) -> None:
    with (hub.folder / "large.safetensors").open("wb") as file:
        file.truncate(1 << 42)  # sparse
    done = ftbench("pull", "smollm3-3b", "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"]) == (2, "model.no_space") and hub.sent == []


def test_a_name_that_the_hub_does_not_have_is_a_user_error(hub: Hub) -> None:
    hub.gone = True
    done = ftbench("pull", "team/smal", "--json")
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], error["location"]) == (2, "model.not_found", "team/smal")


@pytest.mark.parametrize(
    ("name", "code"), [("olmo-3-7b", "model.hub_unreachable"), ("someone/something", "model.offline")]
)
def test_a_refused_connection_is_a_user_error(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # no service listens there
    done = ftbench("pull", name, "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (2, code)
