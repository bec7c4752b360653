"""One copy of a model's weights, with the adapters that share it; adapters are switched by key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import peft
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from engine.methods.adapters import copy_adapter, multiply_in_input_dtype, own_targets
from engine.runs.chat_client import WeightsMemory


class BaseCopy:
    """A loaded base. The first adapter wraps it with PEFT in place: its weights are never copied."""

    def __init__(self, name: str, network: torch.nn.Module) -> None:
        self.name = name
        self.network = network.eval()
        self.bytes = _bytes(network)
        self.adapters: dict[str, int] = {}
        """Key of an adapter -> its size in bytes."""
        self._enabled = True
        self._layers: list[BaseTunerLayer] = []

    def attach(self, key: str, folder: Path) -> None:
        """Load an adapter from its folder."""
        before = _bytes(self.network)
        with own_targets():
            if isinstance(self.network, peft.PeftModel):
                self.network.load_adapter(str(folder), adapter_name=key)
            else:
                self.network = peft.PeftModel.from_pretrained(self.network, str(folder), adapter_name=key)
        copy_adapter(self.network, folder, key)  # all of it
        multiply_in_input_dtype(self.network)  # as in training and evaluation
        self.network.eval()
        self._layers = [module for module in self.network.modules() if isinstance(module, BaseTunerLayer)]
        self.network.base_model.enable_adapter_layers()
        self.network.set_adapter(key)
        self._enabled = True
        self.adapters[key] = _bytes(self.network) - before

    @contextmanager
    def active(self, adapter: str | None) -> Iterator[torch.nn.Module]:
        """The network with this adapter, or with all adapters disabled; it stays so until the next call.

        Calls the layers' own `enable_adapters` and `set_adapter`: PEFT's methods of the model first walk all modules,
        which for 30 decoder layers takes three times as long.
        """
        if adapter is None and self._enabled:
            self._enabled = False
            for layer in self._layers:
                layer.enable_adapters(False)
        elif adapter is not None:
            if not self._enabled:
                for layer in self._layers:
                    layer.enable_adapters(True)
            if not self._enabled or self.network.active_adapter != adapter:
                for layer in self._layers:
                    layer.set_adapter(adapter)
                self.network.active_adapter = adapter
            self._enabled = True
        yield self.network

    @property
    def part(self) -> WeightsMemory:
        """Its memory."""
        return WeightsMemory(
            name=self.name,
            bytes=self.bytes,
            adapters=len(self.adapters),
            adapter_bytes=sum(self.adapters.values()),
        )


def _bytes(network: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, shared storage once; of 4-bit weights with their quantization scales."""
    storages: dict[int, int] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        for one in [tensor.data, *_scales(getattr(tensor, "quant_state", None))]:
            storage = one.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _scales(state: Any) -> list[torch.Tensor]:
    """The tensors of a bitsandbytes quantization state, those of double quantization included."""
    if state is None:
        return []
    own = [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
    return [*own, *_scales(getattr(state, "state2", None))]
