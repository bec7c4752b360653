"""Add low-rank adapters to a frozen base with PEFT; shared by LoRA and QLoRA.

Adapters are stored and updated in float32 and multiply in the data type of the activations, as autocast would: PEFT by
itself copies the input of every adapted layer to float32 and multiplies there (tuners/lora/layer.py), which on a GPU
takes the slow path of the matrix units and keeps a float32 copy of each input for the backward pass.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import peft
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper, _LoraFactorsProxy
from peft.tuners.tuners_utils import _find_minimal_target_modules
from peft.utils import transformers_weight_conversion as conversion
from safetensors.torch import load_file
from torch.nn.utils import parametrize
from transformers import PreTrainedModel

from engine.config import schema
from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.methods.weights import CONVOLUTIONS, Weight, weights_of
from engine.methods.weights import unwrap_peft as unwrap_peft


class CastLinear(torch.nn.Linear):
    """A linear layer whose float32 weight is cast to the data type of its input; its gradient is float32."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """(…, in_features) to (…, out_features), in the input's data type."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return torch.nn.functional.linear(input, self.weight.to(input.dtype), bias)


def add_adapters(model: PreTrainedModel, adapter: schema.Adapter) -> peft.PeftModel:
    """Freeze the base and add float32 adapters to the target linear layers and experts.

    W x becomes W x + s B A x with A (rank, in) random, B (out, rank) zero, and s = alpha/rank, or alpha/sqrt(rank) with
    rsLoRA: before the first step the model equals the base model. PiSSA moves the principal part of W into A and B.
    Set the seed before calling.
    Raises UserError if a target matches no layer, and for settings that PEFT does not support for experts.
    """
    targets = find_lora_targets(model, adapter)
    config = peft.LoraConfig(
        r=adapter.rank,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        target_modules=targets.modules,
        target_parameters=_in_order(targets.parameters) or None,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        init_lora_weights="pissa" if adapter.init == "pissa" else True,
        task_type="CAUSAL_LM",
    )
    modules, parameters = [name for name, _ in model.named_modules()], [weight.name for weight in weights_of(model)]
    try:
        with _targets_as_given():
            adapted = peft.get_peft_model(model, config)
    except ValueError as error:
        problem = f"unsupported layer in {adapter.target_modules} ({str(error).splitlines()[0]})"
        raise _unknown_target(problem, model) from error
    # Name the targets so that PEFT by itself loads the saved adapter onto the same layers. PEFT translates names of
    # layers, but not names of parameters: `mlp.gate_proj.weight` stays a dense MLP, and its adapter has the same
    # tensors under the same names.
    saved = adapted.peft_config["default"]
    saved.target_modules = _shortest([name for name in targets.modules if name not in targets.renamed], modules)
    as_parameters = [*targets.parameters, *(f"{name}.weight" for name in targets.renamed)]
    saved.target_parameters = sorted(_shortest(as_parameters, parameters)) or None
    for name, parameter in adapted.named_parameters():
        if adapter.lora_plus_ratio != 1 and (".lora_B." in name or ".lora_embedding_B." in name):
            parameter.rate_factor = adapter.lora_plus_ratio  # `make_optimizer` multiplies the learning rate by it
    return multiply_in_input_dtype(adapted)


@dataclass(frozen=True)
class Targets:
    """What gets an adapter, by full names in the model."""

    modules: list[str]
    """Layers."""
    parameters: list[str]
    """Experts and routers: PEFT adapts their tensors (`lora.ParamWrapper`)."""
    renamed: list[str]
    """Those of `modules` that PEFT would take for experts of transformers 4 when it loads the adapter."""


def find_targets(model: PreTrainedModel, adapter: schema.Adapter) -> Targets:
    """Find what `adapter.target_modules` names in the part of the model that text uses.

    PEFT by itself adapts no experts, except for families whose names it translates from transformers 4's experts to
    5's: there it reads `gate_proj` as experts and leaves dense MLPs and shared experts of the same name without
    adapter. Names that it translates there (`gate_proj`, `up_proj`) mean the experts in all families here.
    Raises UserError if none matches a layer.
    """
    targets = adapter.target_modules
    weights = list(weights_of(model))
    chosen = [weight for weight in weights if weight.part != "towers" and _is_target(weight, targets)]
    modules = [weight.module for weight in chosen if _is_layer(weight)]
    if targets != "all-linear":
        known = {weight.module for weight in weights if weight.part != "towers"}
        # Embeddings and convolutions that the user chose; PEFT decides whether it supports them.
        kinds = (torch.nn.Embedding, *CONVOLUTIONS)
        others = [name for name, module in model.named_modules() if isinstance(module, kinds)]
        modules += [name for name in others if _matches(name, targets) and name in known and name not in modules]
    parameters = [weight.name for weight in chosen if not _is_layer(weight)]
    if not modules and not parameters:
        raise _unknown_target(f"no layer matches {targets}", model)
    family = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    expert_names = conversion._MOE_TARGET_MODULE_MAPPING.get(family, {})
    renamed = [name for name in modules if name.rpartition(".")[2] in expert_names]
    return Targets(modules, parameters, renamed)


def find_lora_targets(model: PreTrainedModel, adapter: schema.Adapter) -> Targets:
    """Find the targets of LoRA. Raises UserError as `find_targets`, and for settings that PEFT does not support for
    experts.
    """
    targets = find_targets(model, adapter)
    for key, is_set, value in (  # what `lora.ParamWrapper` does not support
        ("adapter.dropout", adapter.dropout > 0, "0"),
        ("adapter.dora", adapter.dora, "false"),
        ("adapter.init", adapter.init == "pissa", "default"),
    ):
        if is_set and (experts := targets.parameters or targets.renamed):
            problem = f"PEFT does not support {key} for experts ({experts[0]})"
            hint = f"--set {key}={value}, or name layers outside of the experts in adapter.target_modules"
            raise UserError(problem, key, hint, code="model.expert_adapter")
    return targets


class _Name(str):
    """A name that sorts by its place in a model."""

    place = 0

    def __lt__(self, other: Any) -> bool:
        return self.place < int(other.place)


def _in_order(parameters: Sequence[str]) -> list[str]:
    """Names that PEFT wraps in their order in the model, also those of 4-bit tensors, which it sorts. The adapter's
    tensors are named by that order, `experts.base_layer.lora_A` before `experts.lora_A`: an adapter of 4-bit experts
    would be loaded onto the wrong tensors of a 16-bit base.
    """
    names = [_Name(name) for name in parameters]
    for place, name in enumerate(names):
        name.place = place
    return list[str](names)


def _is_layer(weight: Weight) -> bool:
    """Whether PEFT wraps the layer; the tensors of experts and routers are adapted as parameters."""
    return weight.is_linear and weight.part != "routers"


def _is_target(weight: Weight, targets: str | Sequence[str]) -> bool:
    if targets == "all-linear":
        return not weight.not_adaptable
    if weight.part in ("experts", "routers"):
        names = [weight.name, weight.module] if weight.part == "routers" else [weight.name]
        if not isinstance(targets, str):  # all layers that transformers 5 joins in one tensor have to be targets
            leaves = {target.rpartition(".")[2] for target in targets}
            before = [layers for layers in EXPERTS_BEFORE.get(weight.leaf, ()) if leaves >= set(layers)]
            names += [f"{weight.module}.{layer}" for layers in before for layer in layers]
        return any(_matches(name, targets) for name in names)
    return weight.is_linear and _matches(weight.module, targets)


EXPERTS_BEFORE = {"gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")), "down_proj": (("w2",),)}
"""Names of the linear layers that transformers 4 had for each expert."""


def _matches(name: str, targets: str | Sequence[str]) -> bool:
    """Whether `adapter.target_modules` has a name, as PEFT reads it: ends of names, or a regular expression."""
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _unknown_target(problem: str, model: PreTrainedModel) -> UserError:
    names = sorted({weight.leaf for weight in weights_of(model) if not weight.not_adaptable})
    hint = f"use layers of this model: {', '.join(names)}"
    return UserError(problem, "adapter.target_modules", hint, code="model.unknown_target")


@contextmanager
def _targets_as_given(convert: Callable[..., None] = lambda *given, **named: None) -> Iterator[None]:
    """Context in which PEFT calls `convert` instead of translating the targets of an adapter from transformers 4."""
    with mock.patch.object(conversion, "convert_peft_config_for_transformers", convert):
        yield


def _shortest(names: Sequence[str], everything: Sequence[str]) -> set[str]:
    """Ends of these names that are not ends of other names."""
    return _find_minimal_target_modules(names, set(everything) - set(names)) if names else set()


@contextmanager
def own_targets() -> Iterator[None]:
    """Context in which PEFT loads adapters as `add_adapters` makes them: layers that `add_adapters` named as parameters
    are wrapped as layers, which 4-bit layers need. PEFT translates the names in adapters of other programs.
    """
    original = conversion.convert_peft_config_for_transformers

    def convert(config: peft.PeftConfig, model: PreTrainedModel, conversions: Any) -> None:
        if not isinstance(config, peft.LoraConfig) or not config.target_parameters:
            original(config, model=model, conversions=conversions)
            return
        named = [weight for weight in weights_of(model) if _matches(weight.name, sorted(config.target_parameters))]
        layers = {weight.module for weight in named if _is_layer(weight)}
        config.target_modules = layers | set(config.target_modules or ())
        config.target_parameters = _in_order([weight.name for weight in named if not _is_layer(weight)]) or None

    with _targets_as_given(convert):
        yield


class FourBitExperts(ParamWrapper):
    """An adapter on 4-bit experts: adds to the dequantized tensor.

    PEFT 0.21 reads the tensor, and so dequantizes it, three times per forward pass, and never removes the adapter's
    parametrization from a tensor that has another one (`ParamWrapper._remove_parametrizations`).
    """

    @contextmanager
    def _activate_lora(self, active_adapters: list[str]) -> Iterator[None]:
        chain = self.get_base_layer().parametrizations[self.parameter_name]
        dtype, number = chain[0].quant_state.dtype, len(chain)
        for name in active_adapters:
            if name not in self.lora_A:
                continue
            # Factors (experts, rows, rank) and (experts, rank, columns) of the update, as `get_delta_factors`.
            first, second = self.lora_A[name].weight.to(dtype), self.lora_B[name].weight.to(dtype)
            first = first.view(self.num_experts, -1, first.shape[-1])  # (experts, rank, in)
            second = second.view(second.shape[0], -1, self.num_experts).permute(2, 0, 1)  # (experts, out, rank)
            factors = (second, first) if self._did_swap_in_out_features else (first.mT, second.mT)
            chain.append(_LoraFactorsProxy(*factors, self.scaling[name]))
        try:
            yield
        finally:
            del chain[number:]


def changes_base_weights(config: schema.Config) -> bool:
    """Whether adding the adapter changes the weights of the base, as PiSSA does."""
    return method_spec(config.method).trains == "adapters" and config.adapter.init == "pissa"


def save_initial_adapter(model: Any, folder: Path) -> None:
    """Store the adapter of PiSSA before training, which `save` subtracts."""
    config = model.peft_config["default"]
    config.init_lora_weights = True  # else PEFT would initialize it again when it loads it
    model.save_pretrained(folder)
    config.init_lora_weights = "pissa"


def save(
    model: torch.nn.Module, folder: Path, initial: Path | None, weights: dict[str, torch.Tensor] | None = None
) -> None:
    """Save the trained model or adapter. `weights`: the complete state dict of a model whose weights are sharded.

    `initial`: the folder that `save_initial_adapter` wrote. The adapter is then saved for the original base:
    W - s B0 A0 + s B A is W plus an adapter of twice the rank.
    """
    how: dict[str, Any] = {} if initial is None else {"path_initial_model_for_weight_conversion": str(initial)}
    if weights is not None:
        how["state_dict"] = weights
    model.save_pretrained(folder, **how)


def load_adapter(model: torch.nn.Module, folder: Path) -> None:
    """Replace the adapter's initial weights by those of an adapter in a folder, written by `save_pretrained`.

    Raises UserError if the adapter has other layers or shapes.
    """
    try:
        copy_adapter(model, folder)
    except ValueError as error:
        hint = "use the adapter settings of that run"
        raise UserError(str(error), str(folder), hint, code="run.start_adapter") from error


@torch.no_grad()
def copy_adapter(model: Any, folder: Path, name: str = "default") -> None:
    """Copy the adapter in a folder into a model that has it, tensor by tensor under the names of `save_pretrained`.

    PEFT by itself renames tensors as transformers renames those of a base model, and ignores those that it then does
    not find (laguna's `shared_experts`). Raises ValueError if the adapter has other tensors or shapes than the model.
    """
    own = peft.get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    file = load_file(folder / "adapter_model.safetensors")
    prefix = PEFT_TYPE_TO_PREFIX_MAPPING[model.peft_config[name].peft_type]  # "lora_"
    stored = {key: value for key, value in file.items() if key in own or prefix in key}  # no adapted embeddings
    if {key: value.shape for key, value in stored.items()} != {key: value.shape for key, value in own.items()}:
        raise ValueError(f"its adapter has {len(stored)} tensors that do not match the {len(own)} of this run")
    for key, value in own.items():
        value.copy_(stored[key])


def multiply_in_input_dtype(model: peft.PeftModel) -> peft.PeftModel:
    """Make every adapter multiply in the data type of its input; call after adapters are added or loaded.

    DoRA is left as PEFT computes it: it divides by norms of the weights, which need float32. So are adapters of tensors
    in a mixture of experts: PEFT casts the factors of experts to the tensor's data type, and multiplies those of a
    router, without tokens, in float32 (lora.ParamWrapper).
    """
    for layer in model.modules():
        if not isinstance(layer, LoraLayer):
            continue
        if isinstance(layer, ParamWrapper):
            if parametrize.is_parametrized(layer.get_base_layer(), layer.parameter_name):
                layer.__class__ = FourBitExperts
            continue
        if layer.lora_variant:
            layer.cast_input_dtype_enabled = True  # off if a plain adapter was loaded before
            continue
        parts = [*layer.lora_A.values(), *layer.lora_B.values()]
        if parts and all(type(part) in (torch.nn.Linear, CastLinear) for part in parts):
            for part in parts:
                part.__class__ = CastLinear  # the same parameters, under the same names
            layer.cast_input_dtype_enabled = False  # for all adapters of the layer
    return model
