"""Where a model lies, and the refusals that keep a stranger's folder harmless. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from engine.assets import tiny_folder
from engine.config import schema
from engine.config.catalog import CATALOGUE, pulled_folder
from engine.config.errors import UserError
from engine.config.model_files import impossible_model
from engine.config.model_limits import impossible

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Located:
    """Where a model lies: a folder, or a Hub id to be fetched."""

    source: str
    is_folder: bool
    revision: str | None = None
    note: str = ""


def locate(model: schema.Model) -> Located:
    """Embedded name, catalogue name, .gguf file, folder or Hub id; raises UserError for what is none of them."""
    if model.id == "tiny":
        return Located(str(tiny_folder()), True)
    if model.id in CATALOGUE:
        entry, folder = CATALOGUE[model.id], pulled_folder(model.id)
        if (folder / "config.json").exists():
            return Located(str(folder), True, note=_provenance(folder))
        return Located(entry.hub, False, model.revision)
    path = Path(model.id)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError("no such file", model.id, "check model.id")
        from engine.methods.convert import gguf_to_folder  # brings torch along

        return Located(str(gguf_to_folder(path)), True, note=f"dequantised from {path.name}")
    if path.is_dir():
        _check_folder(path)
        return Located(str(path), True)
    if model.id.count("/") != 1 or model.id.startswith((".", "/", "~")):
        known = ", ".join(["tiny", *CATALOGUE])
        raise UserError(
            "no such model folder", model.id, f"a folder, a .gguf file, a Hub id owner/name, or one of {known}"
        )
    return Located(model.id, False, model.revision)


def _check_folder(folder: Path) -> None:
    config = folder / "config.json"
    where = str(folder)
    if not config.exists():
        _refuse_adapter(folder)
        raise UserError(
            "no config.json in this model folder", where, "point model.id at a folder written by save_pretrained"
        )
    try:
        table = json.loads(config.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", str(config), "fetch the model again") from error
    if not isinstance(table, dict):
        raise UserError("not a model configuration", str(config), "fetch the model again")
    if fault := impossible(table):
        raise impossible_model(fault, where)
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise UserError(
            "no tokenizer in this model folder",
            where,
            "copy tokenizer.json and tokenizer_config.json beside the weights",
        )
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickles:
            raise UserError(
                f"only pickled weights ({pickles[0]}), which can run code when read",
                where,
                "convert them to safetensors where you trust their maker",
            )
        raise UserError("no weights in this model folder", where, "it needs *.safetensors")


def _refuse_adapter(folder: Path) -> None:
    """UserError for a PEFT adapter: it is no model of its own, and its configuration names the model it belongs to."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        return
    try:
        base = json.loads(path.read_text("utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError, RecursionError, OSError):
        base = None
    what = "an adapter, not a model" + (f"; its base model is {base}" if base else "")
    do = f"set model.id to {base if isinstance(base, str) else 'its base model'}, or to a folder with the merged model"
    raise UserError(what, str(folder), do, code="model.adapter_folder")


def refused(located: Located, part: str, error: Exception) -> UserError:
    """One line for the many ways from_pretrained says no."""
    text = " ".join(str(error).split())
    where = located.source
    if "trust_remote_code" in text or "custom code" in text or "auto_map" in text:
        return UserError(
            f"the {part} wants to run code of its own",
            where,
            "remote code is off; choose a model that transformers knows",
        )
    if "does not recognize this architecture" in text or "Unrecognized configuration class" in text:
        return UserError(
            f"transformers does not know this architecture as a causal model ({text.split('. ')[0][:200]})",
            where,
            "update transformers or choose another",
        )
    if "gated" in text or "401" in text or "403" in text:
        return UserError("the Hub wants you to be let in", where, "accept its licence there and set HF_TOKEN")
    if not located.is_folder and ("connect" in text.lower() or "offline" in text.lower() or "couldn't" in text.lower()):
        return UserError(
            "not on this machine and the Hub cannot be reached",
            where,
            "`ftbench pull` where there is a network, or give a folder",
        )
    return UserError(f"the {part} cannot be loaded: {text[:300]}", where, "check model.id")


def _provenance(folder: Path) -> str:
    note = folder / "SOURCE.txt"
    return note.read_text("utf-8").strip() if note.exists() else ""
