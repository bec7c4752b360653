"""The base class of all sections of settings, and the traits that a field declares in addition to its type and default.

An extension declares its settings as a section too (`ftbench.settings` in `engine/config/hooks.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, lt=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]

Trait = Literal[
    "descriptive",
    "own",
    "path",
    "relocatable",
    "device",
    "weights",
    "of_model",
    "shared",
    "by_ladder",
    "unrelated",
    "private",
    "user_default",
    "unprobed",
    "optional",
]
"""What else holds for a setting:

- descriptive: describes a preset and configures nothing: not compared, not logged, not varied.
- own: not copied with a preset; each has its own.
- path: may name a file or folder, or a list of them: made absolute when a preset is read, as workers run elsewhere.
- relocatable: a path that may change when a run or ladder is resumed where its files are elsewhere, and that is not
  part of a run's identity: the worker compares rows and weights with those of the first start. Other paths are fixed,
  as they configure how a run is computed and scored; of `model.from_run` the run's directory has a copy.
- device: where a run is computed: these and relocatable settings alone may change when it is resumed.
- weights: has to equal that of the run in `model.from_run`, as the method has: its weights fit no others.
- of_model: dropped on the bench with the model that it belongs to.
- shared: has to be equal in all rungs of a ladder. Other settings may differ, and are shown.
- by_ladder: set by the ladder itself: refused in `--set`, `--rung` and `--vary`.
- unrelated: changes no number of a run: a ladder reuses runs with other values. One without it repeats earlier runs.
- private: where and for whom a run was trained, not how: left out of the model card.
- unprobed: has its default in the timing probes of a ladder.
- optional: no part of a run's identity while it is not set.
- user_default: of a whole section: config.toml may have this table, which presets and command lines override.
"""


class Traits:
    """Metadata of a field, `Annotated[str, Traits("path", "shared")]`, or of a whole section, as its `traits`."""

    def __init__(self, *names: Trait) -> None:
        self.names = frozenset(names)


Problem = tuple[str, str, str, str]
"""The key of a value that cannot be used, and problem, hint and code of its error."""


class Section(Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A table of a preset: unknown keys are errors."""

    traits: ClassVar[Traits] = Traits()
    """Of all its fields."""

    def problems(self) -> Iterator[Problem]:
        """Values that cannot be used together."""
        return iter(())


def traits_of(kind: type[Section]) -> Iterator[tuple[str, frozenset[Trait]]]:
    """Each field with its traits and those of its section."""
    hints = get_type_hints(kind, include_extras=True)
    for name in kind.__struct_fields__:
        own = (mark.names for mark in _metadata(hints[name]) if isinstance(mark, Traits))
        yield name, kind.traits.names.union(*own)


def _metadata(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
