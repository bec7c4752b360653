"""Asks a judge about all pairs of answers in both orders, keeps its verdicts, and writes what they show."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from statistics import fmean

import msgspec
import numpy as np

from engine.config.errors import RunFailed, UserError, import_failure
from engine.config.files import appended_lines, read_json_lines
from engine.config.schema import Model
from engine.extensions.judge.judge_dir import JudgeDir, judge_dir, subject_of
from engine.extensions.judge.judges import (
    CHARACTERS_PER_TOKEN,
    Judge,
    Question,
    ServedJudge,
    Verdict,
    comparison_prompt,
    default_rubric,
    prompt_template,
    read_verdict,
)
from engine.extensions.judge.pairs import (
    PAIR_SEPARATOR,
    AnswerPair,
    ComparedAnswers,
    answers_of,
    pair_hash,
    parse_pairs,
)
from engine.extensions.judge.preferences import JudgeCheck, JudgePlan, Judgment, Preferred
from engine.extensions.judge.win_rates import (
    VALUES,
    PairScores,
    PeoplesChoice,
    agreement,
    decided_by_people,
    judge_sentences,
    length_correlation,
    side,
    why_unusable,
    win_rates,
)
from engine.hardware.devices import select_devices
from engine.methods.library_imports import import_libraries
from engine.runs.endpoint import ChatAnswer, EndpointRefusal, is_endpoint, token_cost
from engine.runs.ladder.answers import text_hash
from engine.runs.queue.device_queue import wait_for_devices
from engine.runs.stopping import StopRequest, StopRequested

SAVE_SECONDS = 1.0
"""Between two writes of the state while verdicts are received."""
POLL_SECONDS = 0.1
"""Between two checks for a stop request while a model is loaded."""
MAX_STORED = 4000
"""Characters of a judge's reasons that are stored."""
Decision = Preferred | None
Order = tuple[str, str]
"""The answers in the order in which the judge reads them."""


class StoredVerdict(msgspec.Struct, kw_only=True):
    """A line of `verdicts.jsonl`."""

    key: str
    """Hash of judge and prompt."""
    verdict: Verdict | None
    """None if it is not readable or was refused."""
    text: str = ""
    """The judge's answer, or why the server refused to give one."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


@dataclass
class Comparisons:
    """What has to be compared, and the prompts for it."""

    plan: JudgePlan
    answers: ComparedAnswers
    items: list[int] = field(init=False)
    _keys: dict[tuple[int, str, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.items = self.answers.chosen(self.plan.items)

    def all(self) -> Iterator[AnswerPair]:
        """Every pair of answers: items first, so that what is complete is complete for all rungs."""
        for item in self.items:
            for a, b in self.plan.pairs:
                for seed in self.answers.seeds(a, b):
                    yield self.answers.pair(a, b, seed, item)

    def questions(self) -> Iterator[Question]:
        """Every different prompt, in the same order."""
        asked: set[str] = set()
        for pair in self.all():
            for order in orders(pair):
                question = self.question(pair.item, order)
                if question.key not in asked:
                    asked.add(question.key)
                    yield question

    def question(self, item: int, order: Order) -> Question:
        prompt = comparison_prompt(self.plan.rubric, self.answers.items[item], *order, self.answers.tags)
        return Question(text_hash(self.plan.identity, prompt), prompt)

    def decision(self, pair: AnswerPair, verdicts: Mapping[str, StoredVerdict]) -> tuple[Decision, Decision] | None:
        """What the judge decided with a first and with b first, None for an unreadable verdict; None if not asked."""
        if pair.is_tie:
            return "tie", "tie"
        both_orders = [verdicts.get(self._key(pair.item, order)) for order in orders(pair)]
        if both_orders[0] is None or both_orders[1] is None:
            return None
        in_order: dict[Verdict | None, Decision] = {"first": "a", "second": "b", "tie": "tie", None: None}
        swapped: dict[Verdict | None, Decision] = {"first": "b", "second": "a", "tie": "tie", None: None}
        return in_order[both_orders[0].verdict], swapped[both_orders[1].verdict]

    def _key(self, item: int, order: Order) -> str:
        known = self._keys.get((item, *order))
        if known is None:
            known = self._keys[item, *order] = self.question(item, order).key
        return known


def orders(pair: AnswerPair) -> list[Order]:
    """Both orders of two answers, none for equal ones."""
    return [] if pair.is_tie else [pair.texts, pair.texts[::-1]]


class PreparedJudge(msgspec.Struct, kw_only=True):
    """A plan with its pairs of rungs, and what it takes at most."""

    plan: JudgePlan
    items: int
    requests: int
    """Without those whose verdict is known."""
    reused: int
    """Verdicts that are known."""
    prompt_tokens: int
    """Estimated, of the requests."""
    completion_tokens: int
    """At most."""


def prepare(path: Path, plan: JudgePlan) -> PreparedJudge:
    """Choose the pairs of rungs, all by default, and count requests and tokens of a judge of this ladder or run.

    Raises UserError if a rung has no answers, and for a model on this machine that cannot be loaded.
    """
    subject = subject_of(path)
    if not is_endpoint(plan.judge):
        from engine.methods.model_source import config_of, fingerprint, load_tokenizer

        model = Model(id=plan.judge)
        load_tokenizer(model)
        plan = msgspec.structs.replace(plan, weights=fingerprint(model, config_of(model)))
    answers = answers_of(subject, plan.runs)
    pairs = parse_pairs([PAIR_SEPARATOR.join(pair) for pair in plan.pairs], answers) or answers.pairs()
    plan = msgspec.structs.replace(plan, rubric=plan.rubric or default_rubric(), pairs=pairs)
    comparisons = Comparisons(plan, answers)
    known = read_verdicts(judge_dir(subject, plan).verdicts_file)
    questions = list(comparisons.questions())
    left = [question for question in questions if question.key not in known]
    return PreparedJudge(
        plan=plan,
        items=len(comparisons.items),
        requests=len(left),
        reused=len(questions) - len(left),
        prompt_tokens=sum(question.tokens for question in left),
        completion_tokens=len(left) * plan.answer_tokens,
    )


def open_judge(
    folder: JudgeDir, plan: JudgePlan, stopping: StopRequest, report_progress: Callable[[str], None]
) -> Judge:
    """The judge of a plan. One on this machine takes its turn in the device queue and loads its model.

    `report_progress` is called with what it waits for. Raises UserError for a device or model that cannot be used,
    RunFailed if libraries or model cannot be loaded, and StopRequested: a thread may still be loading then.
    """
    if not plan.is_local:
        return ServedJudge(plan)
    devices = wait_for_devices(
        select_devices(plan.device),
        time.time(),
        folder.subject.path / "judge",
        lambda note: report_progress(f"waiting in the device queue: {note}"),
        lambda: stopping.requested,
    )
    if devices is None:
        raise StopRequested
    devices[0].apply()
    report_progress(f"loading {plan.judge} on {devices[0].title}")
    loading = ThreadPoolExecutor(1).submit(_load_judge, plan)
    while not loading.done():
        stopping.check()
        wait([loading], POLL_SECONDS)
    stopping.check()
    return loading.result()


def _load_judge(plan: JudgePlan) -> Judge:
    """Import the libraries and load the model. Raises as `open_judge`."""
    try:
        import_libraries()
        from engine.extensions.judge.local_judge import LocalJudge
    except Exception as error:
        raise RunFailed(import_failure(error), "engine.failed") from error
    return LocalJudge(plan)


@dataclass
class Judging:
    """One judgment from its start to its end or stop."""

    folder: JudgeDir
    plan: JudgePlan
    stopping: StopRequest
    judge: Judge | None = None
    verdicts: dict[str, StoredVerdict] = field(default_factory=dict)
    pending_questions: int = 0
    """Questions without an answer yet."""
    began: float = 0.0
    """When the first question was asked, by the monotonic clock."""
    saved: float = 0.0
    """When the state was written last."""
    limit_reached: str = ""
    """The limit of tokens or of the cost at which it stops, '' before."""
    refused: bool = False
    """Whether it failed because of invalid input, such as a wrong key."""

    def run(self) -> Judgment:
        """Ask what is not known yet. Raises OSError if the state cannot be written.

        The memory of a model on this machine is freed before the statistics. Its place in the device queue is held
        until the process ends: until then CUDA's context uses memory of the GPU.
        """
        self.state = Judgment(judge=self.plan.judge, rubric=self.plan.rubric, prompt=prompt_template())
        self._save()
        with self._outcome():
            comparisons = Comparisons(self.plan, answers_of(self.folder.subject, self.plan.runs))
            self.verdicts = read_verdicts(self.folder.verdicts_file)
            with self._outcome():  # which drops the error: the frames of its traceback refer to the model
                self._ask_unknown(comparisons)
            self._free_model()
            conclude(self.state, comparisons, self.verdicts, decided_by_people(self.folder.subject))
        if self.state.status == "running":
            self.state.status = "finished"
        self._save()
        return self.state

    @contextlib.contextmanager
    def _outcome(self) -> Iterator[None]:
        """Make a stop or failure the outcome of the judgment instead of raising it."""
        try:
            yield
        except StopRequested as error:
            self.state.status, self.state.reason = "stopped", str(error) or "stopped by request"
        except (UserError, RunFailed) as error:
            self.refused = isinstance(error, UserError)
            self.state.status, self.state.reason, self.state.reason_code = "failed", str(error), error.code

    def _ask_unknown(self, comparisons: Comparisons) -> None:
        """Ask the questions whose verdict is not known. Raises StopRequested, UserError and RunFailed."""
        questions = list(comparisons.questions())
        left = [question for question in questions if question.key not in self.verdicts]
        known = [self.verdicts[question.key] for question in questions if question.key in self.verdicts]
        self.state.items, self.state.requests = len(comparisons.items), len(questions)
        self.state.reused = self.state.done = len(known)
        self.state.prompt_tokens = sum(verdict.prompt_tokens for verdict in known)
        self.state.completion_tokens = sum(verdict.completion_tokens for verdict in known)
        self._price()
        if left:
            self.judge = open_judge(self.folder, self.plan, self.stopping, self._report_progress)
            self._save("")
            self._ask(self.judge, left)

    def _free_model(self) -> None:
        """Free the memory of a model on this machine."""
        if self.plan.is_local and self.judge is not None:
            from engine.training.guards import free_memory  # imports torch, as the judge did

            self.judge = None
            with contextlib.suppress(RuntimeError):  # the CUDA error that the judge failed with
                free_memory()

    def _report_progress(self, note: str) -> None:
        """What a judge on this machine waits for, for the log and whoever follows."""
        print(note, flush=True)
        self._save(note)

    def _ask(self, judge: Judge, questions: list[Question]) -> None:
        """Ask the questions. A stop or an error keeps the verdicts that were received.

        A verdict is appended with one write: a killed process leaves at most one incomplete line.
        """
        with (
            appended_lines(self.folder.verdicts_file) as append,
            contextlib.closing(judge.answers(self._within_limits(questions), self._check)) as replies,
        ):
            for question, answer in replies:
                verdict = stored_verdict(question, answer)
                append(msgspec.json.encode(verdict) + b"\n")
                self.verdicts[verdict.key] = verdict
                self.pending_questions -= 1
                self.state.done += 1
                self.state.prompt_tokens += verdict.prompt_tokens
                self.state.completion_tokens += verdict.completion_tokens
                self._price()
        if self.limit_reached:
            raise StopRequested(self.limit_reached)

    def _check(self) -> None:
        """Raises StopRequested after a stop request; writes the state from time to time."""
        self.stopping.check()
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self._save()

    def _within_limits(self, questions: Iterable[Question]) -> Iterator[Question]:
        """The questions, as the judge takes them, until one could exceed a limit; those under way are answered."""
        self.began = time.monotonic()
        for question in questions:
            self.limit_reached = self._limit_reached_by(question)
            if self.limit_reached:
                return
            self.pending_questions += 1
            yield question

    def _limit_reached_by(self, question: Question) -> str:
        """Which limit one more request could exceed, '' if none."""
        plan, state, requests = self.plan, self.state, self.pending_questions + 1
        pending = requests * (question.tokens + plan.answer_tokens)
        if plan.token_limit is not None and state.prompt_tokens + state.completion_tokens + pending > plan.token_limit:
            return f"the limit of {plan.token_limit:,} tokens is reached"
        if plan.cost_limit is not None and plan.price is not None:
            more = token_cost(plan.price, question.tokens, plan.answer_tokens) * requests
            if (state.cost or 0.0) + more > plan.cost_limit:
                return f"the limit of {plan.cost_limit:g} for the cost is reached"
        return ""

    def _price(self) -> None:
        if self.plan.price is not None:
            self.state.cost = token_cost(self.plan.price, self.state.prompt_tokens, self.state.completion_tokens)

    def _save(self, note: str | None = None) -> None:
        self.state.note = self.state.note if note is None else note
        if isinstance(self.judge, ServedJudge):
            self.state.retries, self.state.note = self.judge.retries, self.judge.failure
        if self.began:
            self.state.seconds = time.monotonic() - self.began
        self.folder.write_state(self.state)
        self.saved = time.monotonic()


def stored_verdict(question: Question, answer: ChatAnswer | EndpointRefusal) -> StoredVerdict:
    """The verdict in a judge's answer; tokens that a server did not count are estimated."""
    if isinstance(answer, EndpointRefusal):
        return StoredVerdict(key=question.key, verdict=None, text=f"refused: {answer}")
    completion = answer.completion_tokens
    if completion is None:
        completion = int(len(answer.text + answer.reasoning) / CHARACTERS_PER_TOKEN)
    return StoredVerdict(
        key=question.key,
        verdict=read_verdict(answer.text),
        text=answer.text[-MAX_STORED:],
        prompt_tokens=question.tokens if answer.prompt_tokens is None else answer.prompt_tokens,
        completion_tokens=completion,
        seconds=answer.seconds,
    )


def read_verdicts(file: Path) -> dict[str, StoredVerdict]:
    """The stored verdicts by key. Does not change the file: the judge's process may be appending to it."""
    try:
        stored = read_json_lines(file, StoredVerdict, skip_damaged=True)  # the judge is asked again
    except OSError as error:
        problem, hint = f"cannot read verdicts ({error.strerror})", "delete the file: the judge is asked again"
        raise UserError(problem, str(file), hint, "judgment.unreadable") from error
    return {verdict.key: verdict for verdict in stored}


Decided = dict[tuple[int, str, str, int], tuple[AnswerPair, tuple[Decision, Decision]]]
"""(item, rung a, rung b, seed) -> the answers, and what the judge decided in both orders."""


def conclude(
    state: Judgment,
    comparisons: Comparisons,
    verdicts: Mapping[str, StoredVerdict],
    people: Mapping[str, PeoplesChoice],
) -> None:
    """Fill in win rates and checks from the items whose verdicts are complete, and their sentences.

    people: what people decided, by the hash of the pair of answers.
    """
    decided: Decided = {
        (pair.item, pair.a, pair.b, pair.seed): (pair, decisions)
        for pair in comparisons.all()
        if (decisions := comparisons.decision(pair, verdicts))
    }
    seeds_of = {pair: comparisons.answers.seeds(*pair) for pair in comparisons.plan.pairs}
    needed = [(a, b, seed) for (a, b), seeds in seeds_of.items() for seed in seeds]
    # Only the first ones of the random order: later ones are complete where answers are equal, or verdicts came soon.
    complete = list(takewhile(lambda item: all((item, *key) in decided for key in needed), comparisons.items))
    scores: dict[tuple[str, str], PairScores] = {}
    for (a, b), seeds in seeds_of.items() if complete else ():
        decisions_by_seed = [[decided[item, a, b, seed][1] for item in complete] for seed in seeds]
        flat = [decision for row in decisions_by_seed for both in row for decision in both]
        scores[a, b] = PairScores(
            np.array([[preference(both) for both in row] for row in decisions_by_seed]),
            tuple(seeds),
            wins=fmean(decision == "a" for decision in flat),
            losses=fmean(decision == "b" for decision in flat),
            groups=tuple(comparisons.answers.items[item].group for item in complete),
        )
    state.rates = win_rates(scores)
    state.check = _check(comparisons, verdicts, decided, people)
    state.unusable = why_unusable(state.check)
    state.sentences = judge_sentences(state, len(complete))


def preference(decisions: tuple[Decision, Decision]) -> float:
    """The mean over both orders, from 0 to 1; an unreadable verdict counts as a tie."""
    return fmean(VALUES[decision or "tie"] for decision in decisions)


def _check(
    comparisons: Comparisons,
    verdicts: Mapping[str, StoredVerdict],
    decided: Decided,
    people: Mapping[str, PeoplesChoice],
) -> JudgeCheck:
    """Over different pairs of answers: equal texts of several seeds or rungs count once."""
    received = [verdicts[question.key] for question in comparisons.questions() if question.key in verdicts]
    different: dict[str, tuple[AnswerPair, tuple[Decision, Decision]]] = {}
    for pair, decisions in decided.values():
        if not pair.is_tie:
            different.setdefault(pair_hash(comparisons.answers.items[pair.item], *pair.texts), (pair, decisions))
    readable = [(pair, decisions) for pair, decisions in different.values() if None not in decisions]
    chosen = [verdict.verdict for verdict in received if verdict.verdict in ("first", "second")]
    rated = [
        (key, pair, decisions)
        for key, (pair, decisions) in different.items()
        if key in people and None not in decisions
    ]
    return JudgeCheck(
        comparisons=len(readable),
        swapped=fmean(decisions[0] != decisions[1] for _, decisions in readable) if readable else None,
        first=fmean(verdict == "first" for verdict in chosen) if chosen else None,
        length_correlation=length_correlation(
            [preference(decisions) for _, decisions in readable],
            [len(pair.answer_a) for pair, _ in readable],
            [len(pair.answer_b) for pair, _ in readable],
        ),
        verdicts=len(received),
        unreadable=fmean(verdict.verdict is None for verdict in received) if received else None,
        people=agreement(
            [comparisons.answers.items[pair.item].group or pair.item for _, pair, _ in rated],
            [side(preference(decisions)) for _, _, decisions in rated],
            [side(people[key].share(pair.answer_a)) for key, pair, _ in rated],
        ),
    )
