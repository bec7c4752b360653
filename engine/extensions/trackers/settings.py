"""`[track]` of presets: which experiment trackers a run is logged to."""

from __future__ import annotations

from typing import ClassVar, Literal

from msgspec import field

from engine.config.section import Section, Traits

TrackerName = Literal["trackio", "tensorboard", "wandb"]


class Track(Section, frozen=True):
    """Experiment trackers that the run is logged to, in separate processes; each is an optional dependency."""

    traits: ClassVar[Traits] = Traits("unrelated", "private", "user_default")

    to: list[TrackerName] = field(default_factory=list)
    """trackio, tensorboard, wandb."""
    project: str = "ftbench"
    """The tracker's project."""
    online: bool = False
    """Let trackers use the network (with their own environment variables for account and server), instead of writing
    local files only."""
