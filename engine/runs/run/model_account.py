"""Use of every weight of a model by a run, as plans, events, results and reports show it.

Embeddings and LM head have parts of their own; a weight that several layers share (tied embeddings, experts in one
tensor) is counted once. The parts sum to the parameters of the model; adapters come in addition.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

from msgspec import Struct

from engine.config.method_specs import MethodSpec, method_title
from engine.config.quantities import count, share_percent
from engine.config.text import amount

Part = Literal["layers", "experts", "routers", "other", "embeddings", "head", "vectors", "towers"]
State = Literal["trained", "adapted", "frozen", "not used"]
LeftOutReason = Literal["", "not_targeted", "router", "read_directly", "no_adapter", "no_4bit", "no_4bit_on_cpu"]
PARTS: dict[Part, str] = {
    "layers": "linear layers",
    "experts": "experts",
    "routers": "routers",
    "other": "other matrices",
    "embeddings": "embeddings",
    "head": "LM head",
    "vectors": "norms, biases",
    "towers": "vision, audio",
}
"""Titles, in the order in which parts are shown."""
COMPARED: frozenset[Part] = frozenset({"layers", "experts", "routers", "other"})
"""Parts that a method's name promises to adapt or to quantize."""
REASONS: dict[LeftOutReason, str] = {
    "not_targeted": "not in adapter.target_modules",
    "router": "routers stay unchanged",
    "read_directly": "the model's code reads the weights without calling their layer",
    "no_adapter": "not a linear layer",
    "no_4bit": "not a linear layer",
    "no_4bit_on_cpu": "no 4-bit CPU kernel for this shape",
}
MOST_LEFT_OUT = 0.05
"""Share of the compared parameters that a method may leave out without a warning."""
LEFT_OUT = "model.left_out"
"""Code of that warning."""


class WeightGroup(Struct, frozen=True, kw_only=True):
    """Weights of one part that a run treats alike."""

    part: Part
    """The kind of weights."""
    state: State
    """What the run does with them."""
    quantized: bool = False
    """Whether they are stored in 4 bits."""
    tensors: int
    """All experts of a layer are one tensor."""
    parameters: int
    """Elements, of 4-bit weights before packing."""
    not_adapted: LeftOutReason = ""
    """Why an adapter method does not adapt them."""
    not_quantized: LeftOutReason = ""
    """Why a method with a 4-bit base does not quantize them."""
    names: list[str] = []
    """Names of their layers without the path, such as `q_proj`."""


class ModelAccount(Struct, frozen=True, kw_only=True):
    """Use of all weights of a model: the groups sum to its parameters."""

    groups: list[WeightGroup]
    """One for each part and state."""
    adapters: int = 0
    """Parameters of the adapters, which are not part of the model."""
    tied: bool = False
    """Whether the LM head is the embedding matrix, which is then counted as `embeddings`."""

    @property
    def parameters(self) -> int:
        return self.total()

    @property
    def trained(self) -> int:
        """Parameters that are trained, adapters included."""
        return self.adapters + self.total(state="trained")

    def use_of(self, part: Part) -> str:
        """How most of a part is used, in 18 columns: `adapted, 4-bit`, `93% adapted 4-bit`."""
        groups = [group for group in self.groups if group.part == part]
        most = max(groups, key=lambda group: group.parameters)
        if len(groups) == 1:
            return f"{most.state}{', 4-bit' if most.quantized else ''}"
        share = min(99, 100 * most.parameters // self.total(parts=[part]))
        return f"{share}% {most.state}{' 4-bit' if most.quantized else ''}"

    def total(self, state: State | None = None, quantized: bool | None = None, parts: Iterable[Part] = PARTS) -> int:
        """Parameters of the groups with these properties."""
        parts = set(parts)
        return sum(
            group.parameters
            for group in self.groups
            if group.part in parts and state in (None, group.state) and quantized in (None, group.quantized)
        )


def left_out(account: ModelAccount, spec: MethodSpec) -> list[WeightGroup]:
    """The groups that the method's name promises to adapt or to quantize and that it does not; not those that the user
    chose himself.
    """
    return [group for group in account.groups if group.part in COMPARED and _left_out(group, spec)]


def _left_out(group: WeightGroup, spec: MethodSpec) -> bool:
    if group.state == "not used":
        return False
    if spec.trains_weights:
        return group.state != "trained"
    adapted = group.state == "adapted" or group.not_adapted == "not_targeted"
    return not adapted or (spec.quantizes_base and not group.quantized)


def left_out_share(account: ModelAccount, spec: MethodSpec) -> float:
    """Their share of the parameters besides embeddings, LM head, norms, biases and what text does not use."""
    whole = sum(group.parameters for group in account.groups if group.part in COMPARED and group.state != "not used")
    return sum(group.parameters for group in left_out(account, spec)) / max(1, whole)


def left_out_warning(account: ModelAccount, spec: MethodSpec) -> str:
    """The warning about what the method leaves out; '' if it is at most MOST_LEFT_OUT."""
    share = left_out_share(account, spec)
    if share <= MOST_LEFT_OUT:
        return ""
    what = "trained" if spec.trains_weights else "both adapted and quantized" if spec.quantizes_base else "adapted"
    groups = sorted(left_out(account, spec), key=lambda group: -group.parameters)
    names = "; ".join(f"{_names(group)} {_why(group, spec)}" for group in groups[:3])
    return (
        f"{method_title(spec.name)} leaves out {share_percent(share)} of the parameters besides embeddings and head, "
        f"which are not {what}: {names}"
    )


def _why(group: WeightGroup, spec: MethodSpec) -> str:
    missing = []
    if group.state == "frozen" and group.not_adapted != "not_targeted":
        missing.append("not adapted")
    if spec.quantizes_base and not group.quantized:
        missing.append("not quantized")
    return f"({'; '.join([' and '.join(missing) or group.state, *_reasons(group)])})"


def _reasons(group: WeightGroup) -> list[str]:
    reasons = [REASONS[reason] for reason in (group.not_adapted, group.not_quantized) if reason]
    return list(dict.fromkeys(reasons))  # two reasons can have one text


def summarize_model(account: ModelAccount) -> str:
    """`8.03B parameters: 6.98B adapted (in 4 bits), 1.05B frozen`."""
    parts = []
    for state in ("trained", "adapted", "frozen", "not used"):
        whole, packed = account.total(state), account.total(state, quantized=True)
        if whole:
            bits = "" if not packed else " in 4 bits" if packed == whole else f" ({count(packed)} in 4 bits)"
            parts.append(f"{count(whole)} {state}{bits}")
    return f"{count(account.parameters)} parameters: {', '.join(parts)}"


def account_lines(account: ModelAccount) -> Iterator[tuple[str, str]]:
    """(part, use) of each part: `experts`, `48 matrices, 28.99B: adapted in 4 bits`."""
    for part, title in PARTS.items():
        groups = [group for group in account.groups if group.part == part]
        if part == "head" and account.tied:
            yield title, "tied: counted with the embeddings"
        if not groups:
            continue
        tensors, whole = sum(group.tensors for group in groups), sum(group.parameters for group in groups)
        use = "; ".join(_use(group, len(groups) > 1) for group in groups)
        yield title, f"{amount(tensors, 'tensor')}, {count(whole)}: {use}"


def exceptions(account: ModelAccount) -> Iterator[str]:
    """Layers and experts that are an exception, and other matrices: `in_proj_b (98.3k) adapted in 16 bits (no 4-bit CPU
    kernel …)`, `conv1d (786k) frozen (not a linear layer)`.
    """
    for group in account.groups:
        reasons = [reason for reason in (group.not_adapted, group.not_quantized) if reason not in ("", "not_targeted")]
        if group.part in ("layers", "experts", "other") and reasons:
            yield f"{_names(group)} ({count(group.parameters)}) {_treatment(group)}"


def _use(group: WeightGroup, several: bool) -> str:
    text = _treatment(group)
    if several:
        return f"{count(group.parameters)} {text}: {_names(group)}"
    return f"{text}: {_names(group)}" if group.part == "other" else text  # that title does not say what they are


def _treatment(group: WeightGroup) -> str:
    """`frozen (routers stay unchanged)`."""
    bits = " in 4 bits" if group.quantized else " in 16 bits" if group.not_quantized == "no_4bit_on_cpu" else ""
    text = f"{group.state}{bits}"
    why = "; ".join(_reasons(group))
    return text + (f" ({why})" if why and group.part in COMPARED else "")


def _names(group: WeightGroup, most: int = 6) -> str:
    more = len(group.names) - most
    return ", ".join(group.names[:most]) + (f" and {more} more" if more > 0 else "")
