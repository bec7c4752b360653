"""Ratings of people: pairs of answers without the names of rungs, one file per rater, and pages that are sent back."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from engine.config.errors import RunFailed, UserError
from engine.config.files import appended_lines, read_json, read_json_lines, read_small, write_atomically
from engine.config.text import amount, visible
from engine.extensions.judge.judge_dir import ratings_folder
from engine.extensions.judge.pairs import (
    PAIR_SEPARATOR,
    AnswerPair,
    ComparedAnswers,
    OrderedItem,
    answers_of,
    pair_hash,
    parse_pairs,
    readable,
)
from engine.runs.ladder.answers import text_hash
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import BASE
from engine.runs.queue import locks
from engine.runs.run.run_dir import RunDir

Choice = Literal["left", "right", "both_good", "both_bad", "skip", "undone"]
"""`skip`: not rated, and not asked again; `undone`: the rating before it was taken back."""
RATED: tuple[Choice, ...] = ("left", "right", "both_good", "both_bad")
MAX_NAME = 40
MAX_PAGE_BYTES = 64 << 20
PAGE_KIND = "ftbench ratings"
PLAN_FILE = "plan.json"
RESERVED = ("plan", "summary", "engine", "end")
"""Names of other files in the folder."""


class RatingPlan(Struct, kw_only=True, frozen=True):
    """The content of `ratings/plan.json`: what is rated, the same for every rater."""

    pairs: list[tuple[str, str]]
    """Rungs that are compared."""
    runs: list[str] = msgspec.field(default_factory=list)
    """Directories of the compared runs; empty for the runs of the ladder."""
    orders: dict[str, list[OrderedItem]] = msgspec.field(default_factory=dict)
    """`lora,base` -> the order in which its items are rated, `[item, seed, weight]`. It is stored, because scores of
    further seeds would change it, and the statistics need the order in which items were rated."""

    def order(self, answers: ComparedAnswers, a: str, b: str) -> list[tuple[OrderedItem, AnswerPair]]:
        """The items with different answers in the order in which they are rated; computed where it is not stored."""
        seeds, pairs = answers.seeds(a, b), list[tuple[OrderedItem, AnswerPair]]()
        for ordered in self.orders.get(PAIR_SEPARATOR.join((a, b))) or answers.random_order(a, b):
            if ordered.item < len(answers.items):
                seed = ordered.seed if ordered.seed in seeds else seeds[ordered.item % len(seeds)]
                pairs.append((ordered, answers.pair(a, b, seed, ordered.item)))
        return [(ordered, pair) for ordered, pair in pairs if not pair.is_tie]


class Rating(Struct, kw_only=True, frozen=True):
    """A line of `ratings/NAME.jsonl`; the last one of a pair counts. It does not name rungs."""

    pair: str
    """Hash of the question and both answers."""
    left: str
    """Hash of the answer that was shown on the left."""
    choice: Choice
    note: str = ""
    seconds: float | None = None
    """From showing the answers to the choice."""
    t: float = 0.0
    """Unix seconds."""


class RatedPage(Struct, kw_only=True, frozen=True):
    """The file that the exported page writes."""

    kind: str
    rater: str
    set: str
    """Fingerprint of the pairs in the page."""
    ratings: list[Rating]
    checksum: str


@dataclass(frozen=True)
class PairToRate:
    """A question with two answers, without the rungs that wrote them."""

    id: str
    item: int
    question: str
    left: str
    right: str

    def rating(self, choice: Choice, note: str = "", seconds: float | None = None) -> Rating:
        """What the rater chose, now."""
        left = text_hash(self.left)
        return Rating(pair=self.id, left=left, choice=choice, note=note, seconds=seconds, t=time.time())


def pairs_to_rate(answers: ComparedAnswers, plan: RatingPlan, rater: str) -> list[PairToRate]:
    """All pairs of different answers in the order of the plan, the same for every rater; pairs of rungs take turns.

    Which answer is on the left is random, and depends on the rater.
    """
    columns: list[list[PairToRate]] = []
    for a, b in plan.pairs:
        column: list[PairToRate] = []
        for _, pair in plan.order(answers, a, b):
            key = pair_hash(answers.items[pair.item], *pair.texts)
            left, right = sorted(pair.texts)
            if hashlib.sha256(f"{rater}\n{key}".encode()).digest()[0] % 2:
                left, right = right, left
            column.append(PairToRate(key, pair.item, readable(answers.items[pair.item].prompt), left, right))
        columns.append(column)
    mixed = chain.from_iterable(zip_longest(*columns))
    return list({pair.id: pair for pair in mixed if pair is not None}.values())


class RatingDir:
    """The folder `ratings/` of a ladder or run."""

    def __init__(self, subject: LadderDir | RunDir) -> None:
        self.subject, self.path = subject, ratings_folder(subject)

    def plan(self) -> RatingPlan | None:
        """What is rated; None before the first rating. Raises UserError if the file is damaged."""
        hint = "delete it, and name the pairs again with --pair"
        return read_json(self.path / PLAN_FILE, RatingPlan, hint, "rating.damaged_plan")

    def make_plan(self, pairs: Sequence[tuple[str, str]], runs: Sequence[str], answers: ComparedAnswers) -> RatingPlan:
        """The stored plan with these pairs added; without any, a default pair. Raises RunFailed on a full disk."""
        self.subject.check_files()
        try:
            self.path.mkdir(mode=0o700, exist_ok=True)
            with locks.exclusive(self.path):
                stored = self.plan()
                before = list(stored.pairs) if stored else []
                wanted = list(dict.fromkeys([*before, *pairs]))
                if not wanted:  # the recommended rung, else the first one, against the base model if there is one
                    known = answers.pairs()
                    with_base = [pair for pair in known if pair[1] == BASE] or known
                    best = (pair for pair in with_base if pair[0] == answers.recommended)
                    wanted = [next(best, with_base[0])]
                orders = dict(stored.orders) if stored else {}
                for pair in wanted:
                    name = PAIR_SEPARATOR.join(pair)
                    orders[name] = orders.get(name) or answers.random_order(*pair)
                plan = RatingPlan(pairs=wanted, runs=list(runs), orders=orders)
                if plan != stored:
                    write_atomically(self.path / PLAN_FILE, msgspec.json.encode(plan))
        except OSError as error:
            raise RunFailed(f"cannot write {self.path}: {error.strerror}", "rating.cannot_write") from error
        return plan

    def raters(self) -> dict[str, dict[str, Rating]]:
        """Name -> the ratings that count, by pair. Raises UserError if a file is damaged."""
        if not self.path.is_dir():
            return {}
        return {file.stem: _counting(read_ratings_file(file)) for file in sorted(self.path.glob("*.jsonl"))}

    def open(self, rater: str) -> RaterFile:
        """The file of a rater, locked for this process. Raises UserError if another process rates with this name."""
        check_rater(rater)
        self.subject.check_files()
        lock = locks.acquire(self.path / f"{rater}.lock", str(os.getpid()))
        if lock is None:
            hint = "choose another name with --rater"
            raise UserError(f"{visible(rater)} is rating in another process", self.subject.name, hint, "rating.in_use")
        return RaterFile(self.path / f"{rater}.jsonl", lock, _counting(read_ratings_file(self.path / f"{rater}.jsonl")))


@dataclass
class RaterFile:
    """The ratings of one person; this process is the only one that writes them."""

    path: Path
    _lock: int
    ratings: dict[str, Rating] = field(default_factory=dict)
    """Pair -> the rating that counts, without those taken back."""

    def add(self, *ratings: Rating) -> None:
        """Append ratings with one write. Raises RunFailed if the file cannot be written."""
        content = b"".join(msgspec.json.encode(rating) + b"\n" for rating in ratings)
        try:
            with appended_lines(self.path) as append:
                append(content)
        except OSError as error:
            raise RunFailed(f"cannot write {self.path}: {error.strerror}", "rating.cannot_write") from error
        for rating in ratings:
            self.ratings.pop(rating.pair, None)
            if rating.choice != "undone":
                self.ratings[rating.pair] = rating

    def close(self) -> None:
        os.close(self._lock)


def check_rater(name: str) -> None:
    """Raises UserError for a name that cannot be a file's."""
    if not re.fullmatch(rf"[\w-]{{1,{MAX_NAME}}}", name) or name in RESERVED:
        hint = f"use letters, digits, - and _, at most {MAX_NAME} characters"
        raise UserError(f"invalid name of a rater {visible(name, MAX_NAME)!r}", "--rater", hint, "rating.rater_name")


def login() -> str:
    """The name of the user, as the name of a rater."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # no entry in the user database
        name = ""
    return re.sub(r"[^\w-]", "-", name)[:MAX_NAME] or "me"


def read_ratings_file(file: Path) -> list[Rating]:
    """The ratings in a rater's file; an incomplete last line is ignored. Raises UserError if another is damaged."""
    try:
        return read_json_lines(file, Rating)
    except OSError as error:
        hint = "check its permissions"
        raise UserError(f"cannot read ratings ({error.strerror})", str(file), hint, "rating.unreadable") from error
    except ValueError as error:
        hint = "restore the file, or remove the line"
        raise UserError(f"damaged ratings ({error})", str(file), hint, "rating.damaged") from error


def _counting(ratings: Sequence[Rating]) -> dict[str, Rating]:
    """The last rating of each pair, without those taken back."""
    last = {rating.pair: rating for rating in ratings}
    return {pair: rating for pair, rating in last.items() if rating.choice != "undone"}


def fingerprint(pairs: Sequence[PairToRate]) -> str:
    """Of the pairs in a page, in any order."""
    return text_hash(*sorted(pair.id for pair in pairs))


def checksum(rater: str, set_: str, ratings: Sequence[Rating]) -> str:
    """What the page writes to show that a file was not edited or truncated: 64-bit FNV-1a of its content.

    It finds mistakes; it does not stop a rater who wants to deceive.
    """
    lines = [f"{rating.pair}|{rating.left}|{rating.choice}|{rating.note}" for rating in ratings]
    value = 0xCBF29CE484222325
    for byte in "\n".join([rater, set_, *lines]).encode("utf-8", "surrogatepass"):
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return f"{value:016x}"


PAGE_TEMPLATE = Path(__file__).parent / "rating_page.html"
PAGE_PLACE = "__FTBENCH_PAIRS__"


def render_page(pairs: Sequence[PairToRate]) -> bytes:
    """The page in UTF-8. It contains no names of rungs, and shows each pair in a random order of its own."""
    content = {
        "kind": PAGE_KIND,
        "set": fingerprint(pairs),
        "longest_name": MAX_NAME,
        "pairs": [
            {
                "pair": pair.id,
                "question": pair.question,
                "answers": [{"text": text, "hash": text_hash(text)} for text in sorted((pair.left, pair.right))],
            }
            for pair in pairs
        ],
    }
    # Nothing in the data can end the script element or start a comment in it.
    data = msgspec.json.encode(content).replace(b"<", b"\\u003c").replace(b">", b"\\u003e").replace(b"&", b"\\u0026")
    before, _, after = PAGE_TEMPLATE.read_bytes().partition(PAGE_PLACE.encode())
    return before + data + after


def import_page(folder: RatingDir, file: Path, pairs: Sequence[PairToRate]) -> tuple[str, int]:
    """Add the ratings of a page's file; returns rater and number of ratings.

    Raises UserError, before anything is added, for a file that is not from a page of these pairs, was edited, has a
    pair twice, or was imported before.
    """
    where, as_written = visible(str(file)), "import the file as the page wrote it"
    hint = "choose a file that the exported page wrote"
    try:
        page = msgspec.json.decode(read_small(file, MAX_PAGE_BYTES), type=RatedPage)
    except OSError as error:
        problem = f"cannot read ratings ({error.strerror})"
        raise UserError(problem, where, "check the path", "rating.unreadable") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"not a file of ratings ({error})", where, hint, "rating.not_a_page") from error
    if page.kind != PAGE_KIND:
        raise UserError("not a file of ratings", where, hint, "rating.not_a_page")
    check_rater(page.rater)
    if page.checksum != checksum(page.rater, page.set, page.ratings):
        raise UserError("the ratings were edited or the file is incomplete", where, as_written, "rating.edited")
    known = {pair.id: pair for pair in pairs}
    unknown = [rating for rating in page.ratings if rating.pair not in known]
    if page.ratings and len(unknown) == len(page.ratings):
        problem = f"the ratings are of other answers than those of {folder.subject.name}"
        raise UserError(problem, where, "import it where its page was exported", "rating.foreign")
    if unknown:
        problem = f"{amount(len(unknown), 'rating')} of answers that have changed since the page was exported"
        raise UserError(problem, where, "export the page again", "rating.changed_items")
    if len({rating.pair for rating in page.ratings}) < len(page.ratings):
        raise UserError("a pair is rated twice", where, as_written, "rating.duplicate")
    for rating in page.ratings:
        pair = known[rating.pair]
        if rating.choice not in (*RATED, "skip") or rating.left not in (text_hash(pair.left), text_hash(pair.right)):
            raise UserError("a rating is not of the answers in the page", where, as_written, "rating.edited")
    own = folder.open(page.rater)
    try:
        again = [rating for rating in page.ratings if rating.pair in own.ratings]
        if again:
            problem = f"{page.rater} has rated {len(again)} of {len(page.ratings)} pairs of the file before"
            hint = "it was imported before, or has the name of another rater"
            raise UserError(problem, where, hint, "rating.duplicate")
        own.add(*page.ratings)
    finally:
        own.close()
    return page.rater, sum(rating.choice in RATED for rating in page.ratings)


class RatingSession:
    """One rater at work: the pairs that are left, and the ratings of this session."""

    def __init__(self, subject: LadderDir | RunDir, runs: Sequence[str], rater: str, given: Sequence[str]) -> None:
        """Read the answers and open the rater's file. `given`: pairs of rungs as in `--pair`.

        Raises UserError without answers, for unknown rungs and for a rater who rates in another process.
        """
        check_rater(rater)
        answers = answers_of(subject, runs)
        self.folder, self.rater = RatingDir(subject), rater
        plan = self.folder.make_plan(parse_pairs(given, answers), runs, answers)
        self.pairs = pairs_to_rate(answers, plan, rater)
        if not self.pairs:
            problem, hint = "the rungs gave the same answers to all test items", "choose others with --pair"
            raise UserError(problem, subject.name, hint, "rating.no_pairs")
        self.own = self.folder.open(rater)
        self._given: list[str] = []
        """Pairs in the order in which they were rated."""

    @property
    def current(self) -> PairToRate | None:
        """The first pair that is not rated; None if all are."""
        return next((pair for pair in self.pairs if pair.id not in self.own.ratings), None)

    @property
    def rated(self) -> int:
        """Pairs with a rating of this rater, without skipped ones."""
        ids = {pair.id for pair in self.pairs}
        return sum(rating.choice in RATED and rating.pair in ids for rating in self.own.ratings.values())

    @property
    def skipped(self) -> int:
        """Pairs that this rater skipped."""
        return sum(rating.choice == "skip" for rating in self.own.ratings.values())

    def choose(self, pair: PairToRate, choice: Choice, note: str, seconds: float) -> None:
        """Store a choice. Raises RunFailed if it cannot be written."""
        self.own.add(pair.rating(choice, note, round(seconds, 1)))
        self._given.append(pair.id)

    def undo(self) -> bool:
        """Take back the latest rating, also of an earlier session; False without one."""
        known = {pair.id: pair for pair in self.pairs}
        before = [rating.pair for rating in sorted(self.own.ratings.values(), key=lambda rating: rating.t)]
        order = [pair for pair in (*before, *self._given) if pair in known and pair in self.own.ratings]
        if not order:
            return False
        latest = known[order[-1]]
        self.own.add(latest.rating("undone"))
        self._given = [pair for pair in self._given if pair != latest.id]
        self.pairs.remove(latest)
        self.pairs.insert(0, latest)  # it is asked again now
        return True
