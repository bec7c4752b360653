"""What each weight of a model is: of a linear layer, an expert, a router, an embedding; and what can be done with it.

Adapters and 4-bit quantization are for linear layers and for experts, which transformers keeps in one tensor per layer
(experts, rows, columns). Both leave out

- the LM head and embeddings;
- routers: they choose experts, and some return more than a product;
- weights that the model's code reads without calling their layer, as the fused kernels of Mamba's layers do with
  `out_proj`, and gemma3n with the coefficients that it clamps: an adapter around such a layer is never called, and
  4-bit weights are read as numbers. So are layers that compute something else with their weight than a product, as
  the grouped output projection of DeepSeek-V4;
- the vision and audio towers of a multimodal model, which text does not use.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from bitsandbytes.nn.parametrize import Bnb4bitParametrization
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch.nn.utils.parametrize import ParametrizationList
from transformers.pytorch_utils import Conv1D

from engine.config.method_specs import method_spec
from engine.config.schema import Config
from engine.runs.run.usage import LeftOutReason, ModelAccount, Part, State, WeightGroup

LINEAR = (torch.nn.Linear, Conv1D)
CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
CPU_COLUMNS, CPU_ROWS = 64, 32
"""bitsandbytes' 4-bit CPU kernels take weights with in_features % 64 == 0 and out_features % 32 == 0."""
EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
ROUTER_CLASS = re.compile(r"Router|Gate$")
_ROUTER_NAMES = {"router", "gate"}
_READ = re.compile(r"\bself\.(\w+)\.weight\b(?!\.(?:dtype|device|shape|is_\w+)\b)")
PLAIN_LINEAR = ("FalconLinear",)
"""Subclasses of Linear that compute the same product."""
READ_ON_REQUEST = frozenset({"BloomAttention", "BloomMLP"})
"""Modules that read weights directly only with a setting that is off by default (`slow_but_exact`)."""
_WRAPPER = re.compile(r"\.base_layer|(?<=\.)parametrizations\.|\.original$")


def unwrap_peft(model: torch.nn.Module) -> Any:
    """The transformers model without PEFT's wrapper, if it has one."""
    return getattr(model, "get_base_model", lambda: model)()


def text_part(model: Any) -> torch.nn.Module:
    """The part of a model that text passes through, without LM head if the model is multimodal."""
    multimodal = model.config.get_text_config() is not model.config
    part: torch.nn.Module = model.get_decoder() if multimodal else model
    return part


@dataclass(frozen=True)
class Weight:
    """One parameter of a model, under the name that it has without adapters and quantization."""

    name: str
    """`model.layers.0.mlp.experts.gate_up_proj`."""
    owner: torch.nn.Module
    """The module that has it, such as the linear layer; without adapter."""
    parameter: torch.nn.Parameter
    shape: torch.Size
    """Of 4-bit weights before packing."""
    part: Part
    quantized: bool
    adapted: bool
    read_directly: bool
    """Whether the code of the model reads it without calling its layer."""

    @property
    def module(self) -> str:
        """The name of its module: of the linear layer, or of all experts."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """`q_proj` of a linear layer, `gate_up_proj` of experts."""
        path = self.name.split(".")
        return path[-2] if path[-1] == "weight" and len(path) > 1 else path[-1]

    @property
    def is_linear(self) -> bool:
        return isinstance(self.owner, LINEAR) and self.name.endswith(".weight")

    @property
    def not_adaptable(self) -> LeftOutReason:
        """Why `all-linear` does not adapt it, '' if it does."""
        if self.part == "routers":
            return "router"
        if self.part not in ("layers", "experts"):
            return "no_adapter"
        return "read_directly" if self.read_directly else ""

    def not_quantizable(self, on_cpu: bool) -> LeftOutReason:
        """Why it stays in 16 bits in a 4-bit base, '' if it does not."""
        if self.part == "routers":
            return "router"
        if self.part not in ("layers", "experts"):
            return "no_4bit"
        if self.read_directly:
            return "read_directly"
        rows, columns = self.shape[-2:]
        if isinstance(self.owner, Conv1D):
            rows, columns = columns, rows
        if self.part == "layers" and on_cpu and (columns % CPU_COLUMNS or rows % CPU_ROWS):
            return "no_4bit_on_cpu"
        return ""


def weights_of(model: torch.nn.Module) -> Iterator[Weight]:
    """Every parameter of the model once, adapters excluded."""
    base = unwrap_peft(model)
    modules = dict(base.named_modules())
    text = {id(module) for module in text_part(base).modules()}
    head = getattr(base.get_output_embeddings(), "base_layer", base.get_output_embeddings())
    config = base.config.get_text_config()
    counts = (getattr(config, name, None) for name in EXPERT_COUNTS)
    experts = next((number for number in counts if isinstance(number, int) and number), None)
    adapted: set[int] = set()  # ids of the parameters that have an adapter
    for module in modules.values():
        if isinstance(module, BaseTunerLayer):
            layer = module.get_base_layer()
            name = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            is_parametrized = name in getattr(layer, "parametrizations", {})
            adapted.add(id(layer.parametrizations[name].original if is_parametrized else layer._parameters.get(name)))
    seen = set(adapter_parameters(base))
    for path, module in modules.items():
        for key, parameter in module._parameters.items():
            if parameter is None or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = _WRAPPER.sub("", f"{path}.{key}" if path else key)
            owner, state, shape = module, getattr(parameter, "quant_state", None), parameter.shape
            if isinstance(module, ParametrizationList):
                owner = modules[path.rpartition(".parametrizations.")[0]]
                state = next((part.quant_state for part in module if isinstance(part, Bnb4bitParametrization)), None)
            is_packed = isinstance(module, Linear4bit) and key == "weight"
            if state is not None:
                shape = torch.Size(state.shape)
            elif is_packed:
                shape = torch.Size((module.out_features, module.in_features))
            parents = _parents(path, modules)
            is_text = id(module) in text or owner is head
            part = _part(name, owner, shape, parents, experts) if owner is not head else "head"
            yield Weight(
                name=name,
                owner=owner,
                parameter=parameter,
                shape=shape,
                part=("vectors" if len(shape) < 2 else part) if is_text else "towers",
                quantized=state is not None or is_packed,
                adapted=id(parameter) in adapted,
                read_directly=_computes_otherwise(owner)
                or (bool(parents) and name.split(".")[-2] in _read_by(parents[0])),
            )


def adapter_parameters(model: torch.nn.Module) -> dict[int, torch.nn.Parameter]:
    """The parameters of all adapters of PEFT in a model, by their id."""
    layers = (module for module in model.modules() if isinstance(module, BaseTunerLayer))
    parts = (getattr(layer, name, None) for layer in layers for name in layer.adapter_layer_names)
    return {id(weight): weight for part in parts if isinstance(part, torch.nn.Module) for weight in part.parameters()}


def account_of(model: torch.nn.Module, config: Config, device: str) -> ModelAccount:
    """The use of every weight of a model that is ready for training with this configuration on a device."""
    spec, all_linear = method_spec(config.method), config.adapter.target_modules == "all-linear"
    groups: dict[tuple[Any, ...], list[Weight]] = {}
    for weight in weights_of(model):
        state: State = "trained" if weight.parameter.requires_grad else "frozen"
        if weight.part == "towers":
            state = "not used"
        elif weight.adapted:
            state = "adapted"
        frozen = state == "frozen" and not spec.trains_weights and weight.part != "vectors"
        why = weight.not_adaptable or ("" if all_linear else "not_targeted") if frozen else ""
        plain = spec.quantizes_base and not weight.quantized and state != "not used" and weight.part != "vectors"
        key = (weight.part, state, weight.quantized, why, weight.not_quantizable(device == "cpu") if plain else "")
        groups.setdefault(key, []).append(weight)
    base = unwrap_peft(model)
    head, embeddings = base.get_output_embeddings(), base.get_input_embeddings()
    return ModelAccount(
        groups=[
            WeightGroup(
                part=part,
                state=state,
                quantized=quantized,
                tensors=len(weights),
                parameters=sum(weight.shape.numel() for weight in weights),
                not_adapted=why,
                not_quantized=plain,
                names=sorted({weight.leaf for weight in weights}),
            )
            for (part, state, quantized, why, plain), weights in groups.items()
        ],
        adapters=sum(parameter.numel() for parameter in adapter_parameters(base).values()),
        tied=head is not None and _weight(head) is _weight(embeddings),
    )


def _weight(layer: Any) -> Any:
    return getattr(getattr(layer, "base_layer", layer), "weight", None)


def _computes_otherwise(layer: torch.nn.Module) -> bool:
    """Whether it is a linear layer whose class has a forward pass of its own."""
    if not isinstance(layer, torch.nn.Linear) or isinstance(layer, Linear4bit):
        return False
    return type(layer).forward is not torch.nn.Linear.forward and type(layer).__name__ not in PLAIN_LINEAR


def _parents(path: str, modules: dict[str, torch.nn.Module]) -> list[torch.nn.Module]:
    """The modules around a module, innermost first, without adapters."""
    parents = []
    while path:
        path = path.rpartition(".")[0]
        if not isinstance(modules[path], (BaseTunerLayer, torch.nn.ModuleList, torch.nn.ModuleDict)):
            parents.append(modules[path])
    return parents


def _part(
    name: str, owner: torch.nn.Module, shape: torch.Size, parents: list[torch.nn.Module], experts: int | None
) -> Part:
    if isinstance(owner, torch.nn.Embedding):
        return "embeddings"
    if name.endswith("bias") or len(shape) < 2:
        return "vectors"
    if experts is not None and experts in shape[:2] and len(shape) == 2:
        named = any(ROUTER_CLASS.search(type(module).__name__) for module in [owner, *parents[:1]])
        if named or _ROUTER_NAMES & set(name.split(".")[-3:-1]):
            return "routers"
    if isinstance(owner, LINEAR):
        return "layers"
    if max(shape) == shape.numel() and len(shape) == 3:
        return "vectors"
    return "experts" if experts and len(shape) == 3 and not isinstance(owner, CONVOLUTIONS) else "other"


def _read_by(module: torch.nn.Module) -> set[str]:
    """Names of the layers whose weights the code of a module reads without calling them."""
    if type(module).__name__ in READ_ON_REQUEST:
        return set()
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("transformers.models.")]
    return {name for kind in kinds for name in _read_in(kind.__module__, kind.__qualname__)}


@cache
def _read_in(module: str, name: str) -> frozenset[str]:
    return frozenset(_READ.findall(inspect.getsource(getattr(sys.modules[module], name))))


def stored_bytes(network: torch.nn.Module) -> int:
    """Bytes of all parameters and buffers, shared storage once; of 4-bit weights with their quantization scales."""
    storages: dict[int, int] = {}
    for tensor in [*network.parameters(), *network.buffers()]:
        for stored in [tensor.data, *_scales(getattr(tensor, "quant_state", None))]:
            storage = stored.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _scales(state: Any) -> list[torch.Tensor]:
    """The tensors of a bitsandbytes quantization state, those of double quantization included."""
    if state is None:
        return []
    own = [value for value in vars(state).values() if isinstance(value, torch.Tensor)]
    return [*own, *_scales(getattr(state, "state2", None))]
