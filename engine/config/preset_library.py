"""Find presets by name: shipped ones, the user's own, and files."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from pathlib import Path

import platformdirs

import engine
from engine.config.benchmarks import TASK_FILES
from engine.config.data_files import KINDS
from engine.config.data_files import is_data_file as is_data_file  # for importers that still use them from here
from engine.config.data_files import is_hub_id as is_hub_id
from engine.config.errors import UserError
from engine.config.files import check_utf8, expanded, working_directory
from engine.config.method_specs import method_names
from engine.config.preset import COMMAND_LINE, EffectiveConfig, Flat, Preset, read_preset, resolve
from engine.config.schema import Config
from engine.config.text import visible
from engine.config.user_trackers import with_user_trackers

PATH_KEYS = (
    "model.id",
    "model.chat_template",
    "model.from_run",
    "data.id",
    "data.test",
    "data.validation",
    "evaluation.forgetting_text",
    "evaluation.benchmarks",
)
"""Keys whose value may be a file or folder, or a list of them."""
GPU_LIST = "gpus"
"""Name of the GPU price list, which is next to the presets."""
RATE = "train.learning_rate"
_FILE_SUFFIXES = (*KINDS, ".gz", ".gguf", ".jinja", *TASK_FILES)


@dataclass(frozen=True)
class PresetEntry:
    """A preset in a list; one that cannot be read has an error instead of a preset."""

    name: str
    path: Path
    preset: Preset | None
    error: str = ""
    slot: int | None = None
    """The key that selects it. Where two presets have the same slot, the user's own keeps it."""


def shipped_folder() -> Path:
    """The presets that ship with ftbench."""
    return Path(engine.__file__).parent.parent / "presets"


def user_folder() -> Path:
    """The user's own presets: `$XDG_CONFIG_HOME/ftbench/presets`."""
    return Path(platformdirs.user_config_dir("ftbench")) / "presets"


def list_presets() -> list[PresetEntry]:
    """Shipped and own presets, by slot; an own one hides a shipped one of the same name."""
    entries: dict[str, PresetEntry] = {}
    for folder in (shipped_folder(), user_folder()):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            if path.stem == GPU_LIST:
                continue
            try:
                check_utf8(path.name)
                entries[path.stem] = PresetEntry(path.stem, path, read_preset(path, path.stem))
            except UserError as error:
                entries[path.stem] = PresetEntry(path.stem, path, None, error.line)
    own = user_folder()
    ordered = sorted(entries.values(), key=lambda entry: (_slot(entry) or 99, entry.path.parent != own, entry.name))
    taken: set[int] = set()
    for number, entry in enumerate(ordered):
        slot = _slot(entry)
        if slot and slot not in taken:
            taken.add(slot)
            ordered[number] = replace(entry, slot=slot)
    return ordered


def preset_name(preset: str) -> str:
    """The name in a preset's name or path: only `.toml` is a suffix, `qwen2.5-7b-lora` is a complete name."""
    return Path(preset).name.removesuffix(".toml")


def without_method(preset: str) -> str:
    """A preset's name without a method at its end: `demo` for `demo-lora`; the run's name has the method already."""
    suffix = next((f"-{method}" for method in method_names() if preset.endswith(f"-{method}")), "")
    return preset.removesuffix(suffix)


def find_preset(name: str) -> tuple[Preset, Path]:
    """A preset by name or by the path of its file. Raises UserError, with the nearest name."""
    check_utf8(name)
    if name.endswith(".toml") or "/" in name:
        path = Path(name)
        if not path.is_file():
            do = "run `ftbench presets list` to see the presets with a name"
            raise UserError("preset file not found", name, do, code="preset.file_not_found")
        return read_preset(path, path.stem), path
    for folder in (user_folder(), shipped_folder()):
        path = folder / f"{name}.toml"
        if path.is_file():
            return read_preset(path, name), path
    names = [entry.name for entry in list_presets()]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    do = "run `ftbench presets list` to see all presets"
    raise UserError(f"unknown preset {name!r}{hint}", do=do, code="preset.not_found")


def resolve_preset(name: str, method: str | None, overrides: Flat, given_by: str = COMMAND_LINE) -> EffectiveConfig:
    """The effective configuration of a named preset and overrides, with absolute file names.

    The user's own trackers are its default for `track`. `given_by`: what sets the overrides, as in `resolve`.
    """
    return with_user_trackers(_effective(name, method, overrides, given_by))


def _effective(name: str, method: str | None, overrides: Flat, given_by: str) -> EffectiveConfig:
    preset, path = find_preset(name)
    preset = replace(preset, values=with_absolute_paths(preset.values, path.parent))
    given = with_absolute_paths(overrides, working_directory())
    chosen = str(method or given.get("method") or "")
    sibling = _sibling_with_rate(preset, chosen) if chosen and RATE not in given else None
    if sibling is None:
        return resolve(preset, method, given, given_by)
    rates = {str(preset.values.get("method", Config().method)): preset.values[RATE], chosen: sibling.values[RATE]}
    found = resolve(replace(preset, values={**preset.values, RATE: rates}), method, given, given_by)
    return replace(found, origins={**found.origins, RATE: f"preset {sibling.name}"})


def _sibling_with_rate(preset: Preset, method: str) -> Preset | None:
    """The preset of the same family for another method, where this preset has one learning rate for its own method.

    `mine-lora` and `mine-qlora` for the same model are a family: the rate of `mine-qlora` suits QLoRA.
    """
    own = str(preset.values.get("method", Config().method))
    if method == own or not isinstance(preset.values.get(RATE), float | int):
        return None
    name = f"{preset.name.removesuffix(f'-{own}')}-{method}"
    sibling = next((one.preset for one in list_presets() if one.name == name), None)
    if sibling is None or sibling.values.get("model.id") != preset.values.get("model.id"):
        return None
    rate = sibling.values.get(RATE)
    rate = rate.get(method) if isinstance(rate, dict) else rate
    if rate is None or sibling.values.get("method", Config().method) != method:
        return None
    return replace(sibling, values={**sibling.values, RATE: rate})


def with_absolute_paths(values: Flat, folder: Path) -> Flat:
    """The values with absolute file names; relative ones are found in `folder`, else in the working directory.

    Raises UserError for a name that is not UTF-8.
    """
    absolute = {key: _anchored(key, value, folder) for key, value in values.items()}
    for key, value in absolute.items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                check_utf8(text, f"{key} = {visible(text)}")
    return absolute


def _anchored(key: str, value: object, folder: Path) -> object:
    """An absolute file name, because the worker runs in another directory; other names and Hub ids are unchanged."""
    if key in PATH_KEYS and isinstance(value, list):
        return [_anchored(key, one, folder) for one in value]
    if key not in PATH_KEYS or not isinstance(value, str) or not value:
        return value
    path = expanded(value)
    looks_like_a_file = (
        value.startswith((".", "/", "~"))
        or path.suffix in _FILE_SUFFIXES
        or value.count("/") > 1
        or (key == "evaluation.forgetting_text" and value not in ("auto", "none"))
    )
    for base in (folder, working_directory()):
        if "/" in value or looks_like_a_file or key == "model.chat_template":
            candidate = base / path
            if candidate.exists():
                return str(candidate.absolute())
    # A folder of this name takes precedence over the catalog and the Hub, but not over the embedded model and data.
    if key in ("data.id", "model.id") and (working_directory() / path).is_dir() and value not in ("tickets", "tiny"):
        return str((working_directory() / path).absolute())
    return str((working_directory() / path).absolute()) if looks_like_a_file else value


def _slot(entry: PresetEntry) -> int | None:
    """The slot that the preset's text sets."""
    slot = entry.preset.values.get("slot") if entry.preset else None
    return slot if isinstance(slot, int) else None
