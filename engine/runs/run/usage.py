"""What a run uses: every weight of the model, every column and row of the data, as plans, events, results and reports
show it. Also overlap between the splits, and what shared prefixes save.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from msgspec import Struct, field

from engine.config.method_specs import MethodSpec, method_title
from engine.config.quantities import count, share_percent
from engine.config.text import amount, visible

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
    """Use of all weights of a model: the groups sum to its parameters.

    Embeddings and LM head have parts of their own; a weight that several layers share (tied embeddings, experts in one
    tensor) is counted once. Adapters come in addition.
    """

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
    groups = []
    for group in account.groups:
        if spec.trains_weights:
            as_promised = group.state == "trained"
        else:
            adapted = group.state == "adapted" or group.not_adapted == "not_targeted"
            as_promised = adapted and (group.quantized or not spec.quantizes_base)
        if group.part in COMPARED and group.state != "not used" and not as_promised:
            groups.append(group)
    return groups


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
    texts = []
    for group in groups[:3]:
        missing = ["not adapted"] if group.state == "frozen" and group.not_adapted != "not_targeted" else []
        missing += ["not quantized"] if spec.quantizes_base and not group.quantized else []
        why = [" and ".join(missing) or group.state, *_reasons(group)]
        texts.append(f"{_names(group)} ({'; '.join(why)})")
    return (
        f"{method_title(spec.name)} leaves out {share_percent(share)} of the parameters besides embeddings and head, "
        f"which are not {what}: {'; '.join(texts)}"
    )


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
    """(part, use) of each part: `experts`, `48 tensors, 28.99B: adapted in 4 bits`."""
    for part, title in PARTS.items():
        groups = [group for group in account.groups if group.part == part]
        if part == "head" and account.tied:
            yield title, "tied: counted with the embeddings"
        if not groups:
            continue
        tensors, whole = sum(group.tensors for group in groups), sum(group.parameters for group in groups)
        uses = []
        for group in groups:
            text = f"{count(group.parameters)} {_treatment(group)}" if len(groups) > 1 else _treatment(group)
            is_named = len(groups) > 1 or part == "other"  # the title of `other` does not name the weights
            uses.append(f"{text}: {_names(group)}" if is_named else text)
        yield title, f"{amount(tensors, 'tensor')}, {count(whole)}: {'; '.join(uses)}"


def exceptions(account: ModelAccount) -> Iterator[str]:
    """Layers and experts that are an exception, and other matrices: `in_proj_b (98.3k) adapted in 16 bits (no 4-bit CPU
    kernel …)`, `conv1d (786k) frozen (not a linear layer)`.
    """
    for group in account.groups:
        reasons = [reason for reason in (group.not_adapted, group.not_quantized) if reason not in ("", "not_targeted")]
        if group.part in ("layers", "experts", "other") and reasons:
            yield f"{_names(group)} ({count(group.parameters)}) {_treatment(group)}"


def _treatment(group: WeightGroup) -> str:
    """`frozen (routers stay unchanged)`."""
    bits = " in 4 bits" if group.quantized else " in 16 bits" if group.not_quantized == "no_4bit_on_cpu" else ""
    text = f"{group.state}{bits}"
    why = "; ".join(_reasons(group))
    return text + (f" ({why})" if why and group.part in COMPARED else "")


def _names(group: WeightGroup, most: int = 6) -> str:
    more = len(group.names) - most
    return ", ".join(group.names[:most]) + (f" and {more} more" if more > 0 else "")


SPLITS = ("train", "validation", "test")
ROLES = ("messages", "system", "tools", "history", "prompt", "text", "answer", "references", "label", "weight")
"""Column roles in display order; other roles follow, `ignored` is last."""
IGNORED = "ignored"


class ColumnUse(Struct, frozen=True):
    """One column and its role."""

    name: str
    """Of the column."""
    rows: int
    """Rows in which the column is not empty."""
    role: str
    """prompt, answer, system, …, rejected, ignored, empty; several are joined by commas."""
    examples: list[str] = []
    """Up to three values, shortened."""


class LeftOut(Struct, frozen=True):
    """Rows that are left out for one reason."""

    rows: int
    """How many."""
    reason: str = ""
    """As text."""
    where: list[str] = []
    """The first places."""


class LabelConflicts(Struct, frozen=True, kw_only=True):
    """Rows to whose prompt other rows give another label."""

    rows: int
    """Rows of prompts with several labels."""
    of: int
    """Rows with a label, before conflicting test rows are left out."""
    best: float
    """The best possible share of right answers on these rows: a model gives each prompt one answer."""


class RowUsage(Struct, frozen=True):
    """Use of all rows: train + validation + test + left out = read."""

    read: int
    """Rows of all files."""
    train: int
    """Training rows."""
    validation: int
    """Validation rows."""
    test: int
    """Test rows."""
    test_items: int | None = None
    """Distinct prompts among the test rows: all answers to one prompt are references of one item."""
    left_out: dict[str, LeftOut] = {}
    """By stable code."""
    conflicts: LabelConflicts | None = None
    """Prompts with several labels; null if there are none, or if answers are no labels."""

    @property
    def left(self) -> int:
        return sum(reason.rows for reason in self.left_out.values())


def sort_columns(columns: Sequence[ColumnUse]) -> list[ColumnUse]:
    """Columns by role, ignored ones last."""
    ranks = {role: number for number, role in enumerate(ROLES)}
    return sorted(columns, key=lambda column: (column.role == IGNORED, ranks.get(column.role, len(ROLES))))


def summarize_columns(columns: Sequence[ColumnUse]) -> str:
    """`prompt: question; answer: answer; ignored: topic, url`. A column named like its role is not repeated."""
    by_role: dict[str, list[str]] = {}
    for column in sort_columns(columns):
        by_role.setdefault(column.role, []).append(visible(column.name, 32))
    return "; ".join(role if names == [role] else f"{role}: {', '.join(names)}" for role, names in by_role.items())


def summarize_rows(usage: RowUsage) -> str:
    """`4,200 rows read: 3,780 train, 200 validation, 210 test (205 prompts), 10 left out`."""
    parts = [f"{getattr(usage, name):,} {name}" for name in SPLITS]
    if usage.test_items is not None and usage.test_items != usage.test:
        parts[-1] += f" ({amount(usage.test_items, 'prompt')})"
    if usage.left:
        parts.append(f"{usage.left:,} left out")
    return f"{amount(usage.read, 'row')} read: {', '.join(parts)}"


class SplitOverlap(Struct, kw_only=True, frozen=True):
    """Rows of one split that also occur in another split, before any row is left out."""

    of: int
    """Rows of the first split."""
    prompt: int
    """Rows whose prompt occurs in the other split."""
    answer: int
    """Rows whose answer occurs in the other split: nearly all in classification."""
    both: int
    """Rows whose prompt and answer occur together in one row of the other split."""
    near: int | None = None
    """Rows whose prompt has a near-duplicate, but no exact match, in the other split; null if not counted."""
    near_reason: str = ""
    """Why `near` is null."""
    where: list[list[str]] = field(default_factory=list)
    """Locations of the first pairs of rows with the same prompt."""

    def figures(self) -> list[tuple[str, str]]:
        """Labels and counts for display: `("prompts", "12 (1.2%)")`."""
        near = f"not counted ({self.near_reason})" if self.near is None else self._share(self.near)
        return [
            ("prompts", self._share(self.prompt)),
            ("answers", self._share(self.answer)),
            ("both", self._share(self.both)),
            ("near-duplicate prompts", near),
        ]

    def _share(self, count: int) -> str:
        return f"{count:,} ({share_percent(count / self.of)})" if count else "0"


def overlap_sentence(pair: str, overlap: SplitOverlap) -> str:
    """`Of 300 test rows, also in training: prompts 0, answers 12 (4%), …`."""
    first, second = pair.split("/")
    second = {"train": "training"}.get(second, second)
    figures = ", ".join(f"{name} {figure}" for name, figure in overlap.figures())
    return f"Of {amount(overlap.of, f'{first} row')}, also in {second}: {figures}."


def describe_sharing(prefix: int, rows: int, ratio: float) -> str:
    """What computing common prefixes once saves; "" without shared prefixes.

    `prefix`: tokens of the prefix common to `rows` rows, 0 if it differs between groups of rows. `ratio`: tokens of
    the rows divided by tokens computed.
    """
    if ratio <= 1.0:
        return ""
    shared = f"prefix of {prefix:,} tokens shared by {rows:,} rows" if prefix else "prefixes shared by groups of rows"
    return f"{shared}: {100 / ratio:.0f}% of the tokens are computed"
