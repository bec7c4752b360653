"""The data check of a configuration for a screen: from the cache of earlier checks, else in the background."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from textual.message_pump import MessagePump

from engine.config.schema import Config
from tui.background import BackgroundRequest, RequestProgress
from tui.data_report import check_arguments
from tui.preview.launch_context import DataCheck, DataCheckCache, WeightsCheck


class DataChecking:
    """Holds the report of one configuration; `changed` is called in the event loop of `node` when there is news."""

    def __init__(self, checks: DataCheckCache, node: MessagePump, changed: Callable[[], object]) -> None:
        self._checks, self._node, self._changed = checks, node, changed
        self._key = self._details_key = b""
        """Of the data check, and of what shared prefixes save, among `checks`."""
        self.report = DataCheck()
        self._configs: list[Config] = []
        self.request: BackgroundRequest | None = None
        self.details_request: BackgroundRequest | None = None
        """Follows the check, whose result it takes from the engine's cache."""

    def begin(self, configs: Sequence[Config], start: bool = True) -> None:
        """Check the data of these configurations, which is the same for all, and their use of the weights; with
        `start=False` only take the report of an earlier check.
        """
        arguments = check_arguments(configs[0])
        names = ("method", "train", "adapter", "quantization")
        settings = [{name: msgspec.to_builtins(getattr(config, name)) for name in names} for config in configs]
        key, details_key = self._checks.key(arguments), self._checks.key({**arguments, "runs": settings})
        same = key == self._key and self.request is not None and self.report.running
        self._key, self._details_key, self._configs = key, details_key, list(configs)
        if same:
            return  # the check in progress answers for this configuration too
        self.leave()
        self.report = self._checks.known(details_key) or self._checks.known(key) or DataCheck(running=start)
        if self.report.answer:
            self._ask_for_details()
        elif start:
            self.request = BackgroundRequest(self._node, "data.check", arguments, self._checked, self._progressed)

    def leave(self) -> None:
        """Cancel the requests."""
        for request in (self.request, self.details_request):
            if request:
                request.cancel()
        self.request = self.details_request = None

    def _progressed(self, progress: RequestProgress) -> None:
        if self.report.running:
            self.report = DataCheck(progress=progress.text)
            self._changed()

    def _checked(self, answer: dict[str, Any] | None, error: str) -> None:
        self.report = DataCheck(answer, error, running=False)
        self._checks.keep(self._key, self.report)
        self._ask_for_details()
        self._changed()

    def _ask_for_details(self) -> None:
        """After a check without refusal: what shared prefixes save and how weights are used, which needs torch."""
        if self.report.awaits_details:
            arguments: dict[str, Any] = {"configs": msgspec.to_builtins(self._configs)}
            self.details_request = BackgroundRequest(self._node, "launch.details", arguments, self._detailed)

    def _detailed(self, answer: dict[str, Any] | None, error: str) -> None:
        """Take the details; without them the launch shows less."""
        details = answer or {}
        weights = msgspec.convert(details.get("weights", []), tuple[WeightsCheck, ...])
        self.report = replace(self.report, sharing=details.get("sharing", ""), weights=weights)
        self._checks.keep(self._details_key, self.report)
        self._changed()
