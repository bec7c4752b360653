"""Presets by name, built in and the user's own, and the configuration that one makes with its overrides.

No file is ever overwritten. Some tables of config.toml are the default of presets that do not set them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import tomli_w

import engine
from engine.config.errors import UserError
from engine.config.files import KINDS, check_utf8, expanded, working_directory, write_atomically
from engine.config.home import config_file, user_setting
from engine.config.method_specs import method_names, reads
from engine.config.preset import (
    COMMAND_LINE,
    EXCLUSIVE,
    EffectiveConfig,
    Preset,
    read_preset,
    resolve,
)
from engine.config.schema import NOT_COPIED, PATH_KEYS, Config, user_sections
from engine.config.settings import Flat, flatten, nested, with_settings
from engine.config.text import ADDRESS_CREDENTIALS, suggestion, visible

GPU_LIST = "gpus"
"""Name of the GPU price list, which is next to the presets."""
RATE = "train.learning_rate"
_FILE_SUFFIXES = (*KINDS, ".gz", ".gguf", ".jinja", ".yaml", ".yml")


@dataclass(frozen=True)
class PresetEntry:
    """A preset in a list; one that cannot be read has an error instead of a preset."""

    name: str
    path: Path
    preset: Preset | None
    error: str = ""
    slot: int | None = None
    """The key that selects it. Where two presets have the same slot, the user's own keeps it."""

    @property
    def shown(self) -> tuple[str, str, str, str]:
        """Method, model, data and title, for a list."""
        values, unset = self.preset.values if self.preset else {}, Config()
        method, model = values.get("method", unset.method), values.get("model.id", unset.model.id)
        return str(method), str(model), str(values.get("data.id", unset.data.id)), str(values.get("title", ""))


def shipped_folder() -> Path:
    return Path(engine.__file__).parent.parent / "presets"


def user_folder() -> Path:
    """The user's own presets: `$XDG_CONFIG_HOME/ftbench/presets`."""
    return config_file().parent / "presets"


def list_presets() -> list[PresetEntry]:
    """Shipped and own presets, by slot; an own one hides a shipped one of the same name."""
    entries: dict[str, PresetEntry] = {}
    for folder in (shipped_folder(), user_folder()):
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else []:
            if path.stem == GPU_LIST:
                continue
            try:
                check_utf8(path.name)
                entries[path.stem] = PresetEntry(path.stem, path, read_preset(path))
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
            hint = "run `ftbench presets list` to see the presets with a name"
            raise UserError("preset file not found", name, hint, code="preset.file_not_found")
        return read_preset(path), path
    for folder in (user_folder(), shipped_folder()):
        path = folder / f"{name}.toml"
        if path.is_file():
            return read_preset(path), path
    meant = suggestion(name, [entry.name for entry in list_presets()])
    hint = "run `ftbench presets list` to see all presets"
    raise UserError(f"unknown preset {name!r}{meant}", hint=hint, code="preset.not_found")


def resolve_preset(name: str, method: str | None, overrides: Flat, given_by: str = COMMAND_LINE) -> EffectiveConfig:
    """The effective configuration of a named preset and overrides, with absolute file names.

    Tables of config.toml are defaults (`with_user_defaults`). `given_by`: what sets the overrides, as in `resolve`.
    """
    preset, path = find_preset(name)
    preset = replace(preset, values=with_absolute_paths(preset.values, path.parent))
    given = with_absolute_paths(overrides, working_directory())
    chosen = str(method or given.get("method") or "")
    sibling = _sibling_with_rate(preset, chosen) if chosen and RATE not in given else None
    if sibling:
        own = str(preset.values.get("method", Config().method))
        rates = {own: preset.values[RATE], chosen: sibling.values[RATE]}
        preset = replace(preset, values={**preset.values, RATE: rates})
    effective = resolve(preset, method, given, given_by)
    if sibling:
        effective = replace(effective, origins={**effective.origins, RATE: f"preset {sibling.name}"})
    return with_user_defaults(effective)


def _sibling_with_rate(preset: Preset, method: str) -> Preset | None:
    """The preset of the same family for another method, where this preset has one learning rate for its own method.

    `mine-lora` and `mine-qlora` for the same model are a family: the rate of `mine-qlora` suits QLoRA.
    """
    own = str(preset.values.get("method", Config().method))
    if method == own or not isinstance(preset.values.get(RATE), float | int):
        return None
    name = f"{preset.name.removesuffix(f'-{own}')}-{method}"
    sibling = next((entry.preset for entry in list_presets() if entry.name == name), None)
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


_ADDRESS = re.compile(
    r"[a-z][a-z0-9+.-]*://(?:huggingface\.co/(?:datasets/)?(?P<hub>[\w.-]+/[\w.-]+)/?$)?", re.IGNORECASE
)


def _anchored(key: str, value: object, folder: Path) -> object:
    """An absolute file name, because the worker runs in another directory; other names and Hub ids are unchanged."""
    if key in PATH_KEYS and isinstance(value, list):
        return [_anchored(key, item, folder) for item in value]
    if key not in PATH_KEYS or not isinstance(value, str) or not value:
        return value
    address = _ADDRESS.match(value)
    if address or (ADDRESS_CREDENTIALS.search(value) and not expanded(value).exists()):
        name = address["hub"] if address else ""
        hint = f"use the Hub id {name}" if name else "download it (`curl -O ADDRESS`) and give the file"
        problem = "an address instead of a file or a Hub id"
        raise UserError(problem, f"{key} = {visible(value)}", hint, code="preset.address")
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
    slot = entry.preset.values.get("slot") if entry.preset else None
    return slot if isinstance(slot, int) else None


def is_own(listed: PresetEntry) -> bool:
    """Whether it is in the user's folder, and may be edited in place and deleted."""
    return listed.path.parent == user_folder()


def create_from_preset(name: str, base: str, overrides: Flat | None = None) -> Path:
    """Write `NAME.toml` with what `base` sets and `overrides` change.

    Raises UserError for an invalid or existing name, and for overrides that `base` could not be run with.
    """
    preset, file = find_preset(base)
    given = with_absolute_paths(overrides or {}, working_directory())
    method = resolve(preset, None, given).config.method
    copied = {
        key: value
        for key, value in with_absolute_paths(preset.values, file.parent).items()
        if key not in NOT_COPIED and reads(method, key) and EXCLUSIVE.get(key) not in given
    }
    rate = copied.get("train.learning_rate")
    if method != preset.values.get("method", Config().method) and not isinstance(rate, dict):
        copied.pop("train.learning_rate", None)  # it was set for the other method
    return create_from_values(name, f"{name}, from {preset_name(base)}", {**copied, **given})


def create_from_config(name: str, base: str, chosen: EffectiveConfig) -> Path:
    """Write `NAME.toml` with the method and every value that is not its default.

    Raises UserError for an invalid or existing name.
    """
    method = chosen.config.method
    defaults = flatten(resolve(Preset("defaults", {}), method).config)
    values: Flat = {"method": method}
    for key, value in flatten(chosen.config).items():
        if key in (*NOT_COPIED, "method") or value is None or value == defaults[key] or not reads(method, key):
            continue
        values[key] = value
    if "train.steps" in values:
        values.pop("train.epochs", None)  # steps count instead of epochs, and a preset must not set both
    rates = find_preset(base)[0].values.get(RATE)
    if isinstance(rates, dict) and rates.get(method) == values.get(RATE):
        values[RATE] = rates
    return create_from_values(name, f"{name}, from {preset_name(base)}", values)


def create_from_values(name: str, title: str, values: Flat) -> Path:
    """Write `NAME.toml` with these values. Raises UserError for an invalid or existing name, and for invalid values."""
    check_name(name)
    values = {"title": title, **values}
    resolve(Preset(name, values))
    return _write(user_folder() / f"{name}.toml", tomli_w.dumps(nested(values)))


def copy_to_own(listed: PresetEntry) -> Path:
    """Copy a shipped preset into the user's folder, where it hides the shipped one."""
    path = user_folder() / listed.path.name
    return _write(path, listed.path.read_text("utf-8"))


def delete_own(listed: PresetEntry) -> None:
    """Delete an own preset. Raises UserError for a shipped one, and where the file cannot be deleted."""
    if not is_own(listed):
        problem, hint = "cannot delete a shipped preset", "delete one of your own (`ftbench presets list`)"
        raise UserError(problem, listed.name, hint, code="preset.shipped")
    try:
        listed.path.unlink()
    except OSError as error:
        problem = f"cannot delete the preset ({error.strerror})"
        raise UserError(problem, str(listed.path), "check its permissions", code="preset.not_deletable") from error


def check_name(name: str) -> None:
    """Raise UserError for an invalid preset name, and for one that exists."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        problem = f"invalid preset name {name!r}: use letters, digits, '-' and '_'"
        raise UserError(problem, hint="start with a letter or digit, at most 64 characters", code="preset.invalid_name")
    if name == GPU_LIST:
        problem = f"reserved preset name {name!r}: {name}.toml is the GPU price list"
        raise UserError(problem, hint="choose another name", code="preset.reserved_name")
    existing = next((listed for listed in list_presets() if listed.name == name), None)
    if existing is not None:
        raise _exists(existing.path)


def _exists(path: Path) -> UserError:
    return UserError("the preset already exists", str(path), "edit it, or choose another name", code="preset.exists")


def _write(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(path, text.encode(), overwrite=False)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError as error:
        problem = f"cannot write the preset ({error.strerror})"
        hint = "check the folder and its permissions"
        raise UserError(problem, str(path), hint, code="preset.not_writable") from error
    return path


def with_user_defaults(effective: EffectiveConfig) -> EffectiveConfig:
    """The configuration with the tables of config.toml, such as `[track]`, where neither preset nor command line set
    their keys.

    Raises UserError for an invalid table: it would silently have no effect. The bench reports an unreadable file.
    """
    for section, kind in user_sections().items():
        try:
            table = user_setting(section)
            checked = msgspec.convert({} if table is None else table, kind)
        except OSError:
            return effective
        except (ValueError, RecursionError) as error:  # msgspec.ValidationError is a ValueError
            hint = f"`ftbench presets show demo` lists the keys of [{section}] with their values"
            where = str(config_file())
            raise UserError(f"invalid [{section}]: {error}", where, hint, f"{section}.invalid_settings") from error
        values = {f"{section}.{name}": getattr(checked, name) for name in table or {}}
        chosen = {key: value for key, value in values.items() if effective.origins.get(key) == "default"}
        origins = {**effective.origins, **dict.fromkeys(chosen, "config.toml")}
        effective = replace(effective, config=with_settings(effective.config, chosen), origins=origins)
    return effective
