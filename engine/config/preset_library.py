"""Presets by name: the shipped ones, the user's own, and files."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

import engine
from engine.config.errors import UserError
from engine.config.files import check_utf8, working_folder
from engine.config.preset import Effective, Flat, Preset, read_preset, resolve
from engine.config.text import visible

DATA_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".gz")
_TEXT_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
PATH_KEYS = ("model.id", "model.chat_template", "data.id", "data.test", "data.validation", "evaluation.general")


def is_data_file(name: str) -> bool:
    """Whether a file of this name is one that rows are read from."""
    suffixes = Path(name.lower()).suffixes
    packed = suffixes[-1:] == [".gz"]
    last = "".join(suffixes[-2:-1] if packed else suffixes[-1:])
    return last in _TEXT_SUFFIXES or (last == ".parquet" and not packed)


def is_hub_id(name: str) -> bool:
    """Whether a name has the shape owner/name."""
    return bool(_HUB_ID.fullmatch(name))


@dataclass(frozen=True)
class PresetEntry:
    """A preset in a list; a broken one has an error in the place of its values."""

    name: str
    path: Path
    preset: Preset | None
    error: str = ""
    slot: int | None = None
    """The key that selects it; where two ask for one key, the user's own has it."""


def shipped_folder() -> Path:
    """The presets that come with ftbench."""
    return Path(engine.__file__).parent.parent / "presets"


def user_folder() -> Path:
    """The user's own: `$XDG_CONFIG_HOME/ftbench/presets`."""
    return Path(platformdirs.user_config_dir("ftbench")) / "presets"


def list_presets() -> list[PresetEntry]:
    """Shipped and own presets; an own one hides a shipped one of the same name."""
    found: dict[str, PresetEntry] = {}
    for folder in (shipped_folder(), user_folder()):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            if path.name == "cards.toml":
                continue
            try:
                check_utf8(path.name)
                found[path.stem] = PresetEntry(path.stem, path, read_preset(path, path.stem))
            except UserError as error:
                found[path.stem] = PresetEntry(path.stem, path, None, error.line)
    own = user_folder()
    ordered = sorted(found.values(), key=lambda one: (_asked(one) or 99, one.path.parent != own, one.name))
    taken: set[int] = set()
    for number, listed in enumerate(ordered):
        slot = _asked(listed)
        if slot and slot not in taken:
            taken.add(slot)
            ordered[number] = replace(listed, slot=slot)
    return ordered


def called(preset: str) -> str:
    """The name part of a preset's name or path: a dot in it (`qwen2.5-7b-lora`) ends no name."""
    return Path(preset).name.removesuffix(".toml")


def find_preset(name: str) -> tuple[Preset, Path]:
    """A preset by name or by the path of its file. Raises UserError, with the nearest name."""
    check_utf8(name)
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            raise UserError("no such preset file", name, "`ftbench presets list` shows the named ones")
        return read_preset(path, path.stem), path
    for folder in (user_folder(), shipped_folder()):
        path = folder / f"{name}.toml"
        if path.is_file():
            return read_preset(path, name), path
    names = [listed.name for listed in list_presets()]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(f"no preset {name!r}", do=f"{hint}`ftbench presets list` shows them")


def effective(name: str, method: str | None, overrides: Flat) -> Effective:
    """The named preset laid under the command line, its file names made absolute."""
    preset, path = find_preset(name)
    own = anchored(preset.values, path.parent)
    return resolve(Preset(preset.name, own, preset.text), method, anchored(overrides, working_folder()))


def anchored(values: Flat, folder: Path) -> Flat:
    """The same with file names made absolute that are written as seen from `folder`, else from the working folder.

    Raises UserError for a name that is not UTF-8.
    """
    found = {key: _anchored(key, value, folder) for key, value in values.items()}
    for key, value in found.items():
        if isinstance(value, str):
            check_utf8(value, f"{key} = {visible(value)}")
    return found


def _anchored(key: str, value: object, folder: Path) -> object:
    """A file name as the worker, which runs elsewhere, will find it; names and Hub ids stay as they are."""
    if key not in PATH_KEYS or not isinstance(value, str) or not value:
        return value
    path = Path(value).expanduser()
    looks_like_a_file = (
        value.startswith((".", "/", "~"))
        or path.suffix in (*DATA_SUFFIXES, ".gguf", ".jinja")
        or value.count("/") > 1
        or (key == "evaluation.general" and value not in ("auto", "none"))
    )
    for base in (folder, working_folder()):
        if "/" in value or looks_like_a_file or key == "model.chat_template":
            candidate = base / path
            if candidate.exists():
                return str(candidate.absolute())
    # A bare word is a name first ("tickets", "train"); a folder of that name is taken where there is one.
    if key in ("data.id", "model.id") and (working_folder() / path).is_dir() and value not in ("tickets", "tiny"):
        return str((working_folder() / path).absolute())
    return str((working_folder() / path).absolute()) if looks_like_a_file else value


def _asked(listed: PresetEntry) -> int | None:
    slot = listed.preset.values.get("slot") if listed.preset else None
    return slot if isinstance(slot, int) else None
