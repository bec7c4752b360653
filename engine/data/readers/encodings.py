"""Guess the encoding of a text file that is not UTF-8, and find text that was decoded with the wrong one.

Bytes of one 8-bit encoding are valid in all others, so a guess is a comparison: each encoding is scored by how well the
words that it gives fit the alphabet of one language. A command to convert the file is only offered if all encodings
that fit about as well give the same letters: a wrong one would replace letters, and nothing would notice it later.
"""

from __future__ import annotations

import math
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

_WORD = re.compile(rb"[0-\xff]*[\x80-\xff][0-\xff]*")
"""A word with a byte above 127; the second byte of a character of two bytes is at least `0` in every encoding."""
_ASCII_WORD = re.compile(rb"(?<![0-\xff])[a-z]{1,6}(?![0-\xff])")
_WORD_BYTES, _SCORED_WORDS, _SHOWN = 32 << 20, 5_000, 3
"""Maximum bytes of distinct words that are decoded; maximum words that are scored; places that are shown."""
_COUNTED_LINES = 10_000
"""Lines in which frequent words are counted."""
_CLOSE = math.log(10_000)
"""Encodings whose likelihood is at least 1 / 10,000 of the best one's are candidates."""
_FITTING = 0.9
"""Share of the letters of a candidate that are in the alphabet of the language."""
_UNLIKELY = math.log(1e-4)
_ALONE, _PAIR = math.log(0.05), math.log(6)
_SYMBOL, _QUOTE = math.log(0.02), math.log(0.1)
_WESTERN_PRIOR = math.log(100)
_STOP_WORD, _MAX_STOP_WORDS = math.log(8), 12
"""How much more likely a frequent word is in its own language than in others; maximum number that are counted."""

_LATIN = {
    "French": ("éèàêçôûâîùïëœæüÿñ", "le la les de des du et un une que qui dans pour est sur pas par il au avec"),
    "German": ("üäößéáèà", "der die das und ist nicht ein eine zu mit von den auf im ich sie es wir war wie"),
    "Spanish": ("óáíñéúüç", "el la los de que y en un una por con para es no se del las al lo su como"),
    "Portuguese": ("ãçáéíóêõâàúôü", "o a os de que e do da em um uma para com por se na no dos as mais como"),
    "Italian": ("èàùòéìîí", "il di che e la per un una in con del non si da le i al della sono ha come"),
    "Catalan": ("éàóíèòçúïü", "el la els de que i en un una per amb del les no es al"),
    "Dutch": ("ëéïèöüáó", "de het een en van is dat op te in niet met zijn voor die er aan"),
    "Nordic": ("åøäæöéüèêáó", "og i det er en at som av for den til med ikke och att jag den ett inte han ja on ei"),
    "Icelandic": ("íáðóéþæúýö", "og er sem ekki en hann vi til um var hef"),
    "Estonian": ("äõüöšž", "ja on ei et see oma ka kui ta mis ning"),
    "Turkish": ("ıüğşçöiâîû", "ve bir bu da de ne ile ama o var daha her gibi en"),
    "Polish": ("ęąłóżśćńź", "i w na z do nie jest to co o jak ale po tak od za przez"),
    "Czech": ("áíěéčřžýšůúňťďó", "a v na se je to s z do ale jako za po pro od jsem ve by"),
    "Slovak": ("áíéčžýšľúňťäôďĺŕó", "a v na sa je to s z do ako za po pre od som by"),
    "Hungarian": ("áéőóöíüúű", "a az egy nem hogy van ez volt meg csak de mint is"),
    "South Slavic": ("čšžćđ", "i u je na se za da su od sam ne to in v ki pa po"),
    "Romanian": ("ăîâşţșț", "de la nu o un cu pe din ce mai sunt este care pentru"),
    "Lithuanian": ("ėšųąžūčęį", "ir kad su yra tai bet jis i iki nuo apie"),
    "Latvian": ("āīēšūņļžčķģō", "un ir ar no uz ka par bet arī kas vai tas"),
    "other": ("", "the of and to is in that it for was with on are this be at from have you not"),
}
"""Language -> its letters beyond a–z, the most frequent first, and frequent words without such letters. `other`, such
as English with names from anywhere, has all of them."""
_CYRILLIC = {
    "Russian": "оеаинтсрвлкмдпуяыьгзбчйхжшюцщэфъё",
    "Ukrainian": "оаинвітерсклдумпязьбгйчхжцюшїєщфґ",
    "Bulgarian": "аоиетнрсвлкдпмзугябъчщжцхйшюфь",
    "Serbian": "аоиенрстјвкдмупљбзгњцчћжшђхфџ",
    "Belarusian": "аінеыроцслдкупмвьяйгтэзубчшжўхёюф",
}
_OTHER_SCRIPTS = {
    "Greek": "αοιετσνηυρπκμλωςάίόέδγχήθύφβώξζψϊϋΐΰ",
    "Hebrew": "יוהלאמרתבשנעםדקחפכןגטסצזףץך",
    "Arabic": "اليمنوتربةعدسفهكقأحجشطصخإذىضثئغزءظآؤ",
    "Thai": "านรอกเงยมล่วดท้สตะปบคหแจพชขใไโผฉธณญศษฐฟซภฎฏฑฒฌฤฆฝฮ็์ิีึืุูัำๆฯ",
}
_SINGLE_BYTE = (
    *("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257", "mac_roman", "cp850", "cp852"),
    *("cp1251", "koi8-r", "koi8-u", "cp866", "cp855", "mac_cyrillic", "iso8859-5", "cp1253", "iso8859-7"),
    *("cp1255", "cp1256", "iso8859-6", "cp874"),
)
_MULTI_BYTE = ("cp932", "euc_jp", "gb18030", "big5", "cp949")
_ICONV = {"mac_roman": "MACINTOSH", "euc_jp": "EUC-JP", "mac_cyrillic": "MAC-CYRILLIC"}
"""Names of encodings that iconv spells in another way."""
_QUOTES, _WITHIN_WORDS = "«»“”„‘’–…¿€£", "’·\xad"
_OPENING = "«„¿¡€£¥§"
_SYMBOLS = f"{_QUOTES}{_WITHIN_WORDS}\xa0‚‹›—¡•°ºª¥§©®™²³½¼¾±×÷´"
"""The symbols of ordinary text; those that are frequent, within words, and not directly after a letter."""
_COMMON = {
    "cp932": ("shift_jis", (0x88, 0x98), 2965),
    "euc_jp": ("euc_jp", (0xB0, 0xCF), 2965),
    "gb18030": ("gb2312", (0xB0, 0xD7), 3755),
    "big5": ("big5", (0xA4, 0xC6), 5401),
    "cp949": ("euc_kr", (0xB0, 0xC8), 2350),
}
"""Encoding -> the standard, the first bytes and the number of its frequent Chinese characters, or Korean syllables."""


@dataclass
class FileWords:
    """The words of a file that are not ASCII, and what they say about its encoding."""

    words: dict[bytes, int]
    """Distinct words in reading order -> the line of the first."""
    frequent: Counter[str]
    """ASCII words of at most six letters."""

    @classmethod
    def of(cls, blocks: Iterable[bytes]) -> FileWords:
        """`blocks`: the content in pieces, each of which ends between two words."""
        found, line, size = cls({}, Counter()), 1, 0
        for block in blocks:
            if line < _COUNTED_LINES:
                found.frequent.update(word.decode() for word in _ASCII_WORD.findall(block))
            at = 0
            for match in _WORD.finditer(block):
                line += block.count(b"\n", at, match.start())
                at, word = match.start(), match[0]
                if word in found.words or size > _WORD_BYTES:
                    continue
                size += len(word)
                found.words[word] = line
            line += block.count(b"\n", at)
        return found


def encoding_hint(blocks: Iterable[bytes], path: Path) -> str:
    """What to do about a file that is not UTF-8: the command that converts it, or what its encoding may be."""
    found = FileWords.of(blocks)
    utf8 = {word for word in found.words if _is_plausible(_decode(word, "utf-8") or "\0")}
    candidates = _candidates([word for word in found.words if word not in utf8], found.frequent)
    if not candidates:
        return "save the file as UTF-8: its encoding is not one that is known here"
    if line := _line_of_utf8(found, utf8, candidates[0]):
        return (
            f"save the file as UTF-8: some of its lines are in another encoding ({candidates[0]}?) and others are "
            f"UTF-8, such as line {line}: convert only the lines that are not"
        )
    texts = {name: [_decode(word, name) or "" for word in found.words] for name in candidates}
    distinct = {_letters("".join(texts[name])): name for name in reversed(candidates)}
    names = sorted(distinct.values(), key=candidates.index)
    if len(names) == 1:
        shown = ", ".join(dict.fromkeys(_shown(text) for text in texts[names[0]][:_SHOWN]))
        return f"save the file as UTF-8: `{convert_command(names[0], path)}` if {names[0]} is right ({shown})"
    places: list[str] = []
    for number, line in enumerate(found.words.values()):
        readings = [texts[name][number] for name in names]
        if len(set(map(_letters, readings))) > 1 and len(places) < _SHOWN:
            decoded = [f"{_shown(text)} ({name})" for text, name in zip(readings, names, strict=True)]
            places.append(f"line {line} {' or '.join(decoded[:4])}")
    return (
        "save the file as UTF-8 in the program that wrote it, or with iconv from the encoding that is right: "
        f"{'; '.join(places)}"
    )


def _line_of_utf8(found: FileWords, utf8: set[bytes], encoding: str) -> int:
    """The line of the first UTF-8 word in a file of another encoding; 0 if none. A conversion would damage it.

    In an encoding with several bytes per character, words are UTF-8 by chance.
    """
    if encoding in _MULTI_BYTE and len(utf8) < 0.05 * len(found.words):
        return 0
    for word, line in found.words.items():
        if word in utf8 and ((text := _decode(word, encoding)) is None or _Letters.of([text]).odd):
            return line
    return 0


def convert_command(encoding: str, path: Path) -> str:
    """The shell command that converts a file to UTF-8 in place and keeps the original as `.bak`."""
    source, kept = shlex.quote(str(path)), shlex.quote(f"{path}.bak")
    convert = f"iconv -f {_ICONV.get(encoding, encoding)} -t UTF-8"
    if path.suffix.lower() == ".gz":
        return f"cp {source} {kept} && gzip -dc {kept} | {convert} | gzip > {source}"
    return f"cp {source} {kept} && {convert} {kept} > {source}"


def _shown(text: str) -> str:
    at = next((place for place, letter in enumerate(text) if letter > "\x7f"), 0)
    return repr(text[max(0, at - 10) : at + 10])


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, text))


_HIGH = "".join(bytes([byte]).decode("cp1252", "ignore") or chr(byte) for byte in range(0x80, 0xC0))
_AS_WESTERN = re.compile(f"[Â-ô][{re.escape(_HIGH)}\x80-\x9f]{{1,3}}")
"""The bytes of a character of UTF-8, decoded as cp1252 or Latin-1."""
_CERTAIN = ("Ã", "Â", "â€", "ï»¿", "ðŸ")
"""What these begin with where a single one is enough: others are also in ordinary text."""
_MARKS = ("\ufffd", "вЂ", "‚Ä", "√©", "ÔÇ", "├®", "├í")
"""The replacement character; quotes and é of UTF-8, decoded as cp1251, Mac Roman or cp850."""
_HALFWIDTH = re.compile(
    "[A-Za-z0-9][\uff61-\uff63\uff66-\uff9f](?![\u3040-\u9fff\uff61-\uff9f])|"
    "(?<![\u3040-\u9fff\uff61-\uff9f])[\uff61-\uff63\uff66-\uff9f][A-Za-z0-9]"
)
"""Halfwidth katakana next to Latin letters and digits: accents and currencies, decoded as cp932."""


def is_misread(text: str) -> bool:
    """Whether text was decoded with the wrong encoding: `dÃ©jÃ `, `itâ€™s`."""
    if any(mark in text for mark in _MARKS) or _HALFWIDTH.search(text):
        return True
    doubtful = 0
    for match in _AS_WESTERN.finditer(text):
        found = match[0]
        if text[match.start() - 1 : match.start()].isupper():
            continue  # a word in capitals
        raw = b"".join(letter.encode("cp1252", "ignore") or letter.encode("latin-1") for letter in found)  # C1 controls
        if _is_plausible(_longest_utf8(raw) or "\0"):
            doubtful += 1
            if doubtful > 1 or found.startswith(_CERTAIN):
                return True
    return False


def _longest_utf8(raw: bytes) -> str:
    """The first character of UTF-8 bytes; '' if they are not UTF-8."""
    return next((text for end in (2, 3, 4) if (text := _decode(raw[:end], "utf-8"))), "")


_PLAUSIBLE = re.compile(
    "[\x20-\x7e\xa0-\u024f\u0370-\u052f\u0590-\u06ff\u0e00-\u0e7f\u1e00-\u1eff\u2010-\u20bf\u2100-\u27bf\u3000-\u30ff"
    "\u4e00-\u9fff\uac00-\ud7af\ufe0f\uff00-\uffef\U0001f300-\U0001faff]*"
)
"""Text in common scripts."""


def _is_plausible(text: str) -> bool:
    return _PLAUSIBLE.fullmatch(text) is not None


def _decode(word: bytes, encoding: str) -> str | None:
    try:
        return word.decode(encoding)
    except UnicodeDecodeError:
        return None


def _candidates(words: list[bytes], frequent: Counter[str]) -> list[str]:
    """The encodings that fit these words about as well as the best one, the best first."""
    step = -(-len(words) // _SCORED_WORDS)
    scores = {}
    for name in (*_SINGLE_BYTE, *_MULTI_BYTE):
        if any(_decode(word, name) is None for word in words):
            continue
        texts = [word.decode(name) for word in words[::step]]
        fit = _multi_byte_fit(texts, name) if name in _MULTI_BYTE else _single_byte_fit(texts, frequent)
        if fit is not None:
            scores[name] = fit + (_WESTERN_PRIOR if name == "cp1252" else 0)
    best = max(scores.values(), default=0.0)
    close = [name for name, score in scores.items() if score >= best - _CLOSE]
    return sorted(close, key=lambda name: -scores[name])


@dataclass
class _Letters:
    """What words consist of besides ASCII."""

    letters: Counter[str]
    """In lower case."""
    symbols: int = 0
    quotes: int = 0
    """Those of the symbols that are frequent."""
    odd: int = 0
    """Characters that do not belong where they are."""

    @classmethod
    def of(cls, texts: Iterable[str]) -> _Letters:
        found = cls(Counter())
        for before, letter, after in chain.from_iterable(map(_neighbors, texts)):
            is_letter = (letter.isalpha() and letter not in "ªº") or unicodedata.category(letter) in ("Mn", "Mc")
            if is_letter and not _is_odd(before, letter, after):
                found.letters[letter.lower()[0]] += 1
            elif is_letter or letter not in _SYMBOLS or _splits_word(before, letter, after):
                found.odd += 1
            else:
                found.symbols += 1
                found.quotes += letter in _QUOTES
        return found


def _single_byte_fit(texts: list[str], frequent: Counter[str]) -> float | None:
    """The log-likelihood of these words in the language that fits best; None if none fits."""
    found = _Letters.of(texts)
    best: float | None = None
    for odds, stop_words in _languages().values():
        strange = found.odd + sum(count for letter, count in found.letters.items() if letter not in odds)
        if strange > (1 - _FITTING) * (found.letters.total() + found.symbols + found.odd):
            continue
        likelihood = sum(count * odds[letter] for letter, count in found.letters.items() if letter in odds)
        likelihood += strange * _UNLIKELY + (found.symbols - found.quotes) * _SYMBOL + found.quotes * _QUOTE
        hits = sum(min(frequent[word], 4) for word in stop_words)
        likelihood += min(hits, _MAX_STOP_WORDS) * _STOP_WORD
        best = likelihood if best is None else max(best, likelihood)
    return best


def _neighbors(text: str) -> Iterator[tuple[str, str, str]]:
    """(character before, character, character after) of the characters that are not ASCII; a space at the ends."""
    padded = f" {text} "
    for place in range(1, len(padded) - 1):
        if padded[place] > "\x7f" and not padded[place - 1] == padded[place] == padded[place + 1]:
            yield padded[place - 1], padded[place], padded[place + 1]


def _is_odd(before: str, letter: str, after: str) -> bool:
    """Whether a letter does not belong between its neighbors: upper case within a word, or another script."""
    if letter.isupper() and before.islower():
        return True
    if letter.islower() and after.isupper():
        return True
    if before.isdigit() or after.isdigit():
        return True
    return any(near.isalpha() and _script(near) != _script(letter) for near in (before, after))


def _splits_word(before: str, symbol: str, after: str) -> bool:
    return before.isalpha() and (symbol in _OPENING or after.isalpha()) and symbol not in _WITHIN_WORDS


@cache
def _script(letter: str) -> str:
    return "LATIN" if letter < "\x80" else unicodedata.name(letter, "?").split()[0]


@cache
def _languages() -> dict[str, tuple[dict[str, float], frozenset[str]]]:
    """Language -> the log-probability of each of its letters beyond a–z, by Zipf's law; its frequent words."""
    every = "".join(dict.fromkeys("".join(letters for letters, _ in _LATIN.values())))
    tables: dict[str, tuple[dict[str, float], frozenset[str]]] = {}
    for name, (letters, words) in _LATIN.items():
        tables[name] = _odds(letters, flat=False) if letters else _odds(every, flat=True), frozenset(words.split())
    for name, letters in (_CYRILLIC | _OTHER_SCRIPTS).items():
        tables[name] = _odds(letters, flat=False), frozenset()
    return tables


def _odds(letters: str, flat: bool) -> dict[str, float]:
    weights = [1.0 if flat else 1 / (place + 2) for place in range(len(letters))]
    return {letter: math.log(weight / sum(weights)) for letter, weight in zip(letters, weights, strict=True)}


def _multi_byte_fit(texts: list[str], encoding: str) -> float | None:
    """The log-likelihood of these words as Chinese, Japanese or Korean; None if they do not look like it."""
    codec, (first, last), inventory = _COMMON[encoding]
    is_japanese = encoding in ("cp932", "euc_jp")
    kana = common = odd = alone = symbols = 0
    for before, letter, after in chain.from_iterable(map(_neighbors, texts)):
        name = unicodedata.name(letter, "?")
        if is_japanese and name.startswith(("HIRAGANA", "KATAKANA")):
            kana += 1
        elif letter in _QUOTES or "\u3000" <= letter <= "\u301f" or name.startswith("FULLWIDTH") or letter == "・":
            symbols += 1
        else:
            coded = letter.encode(codec, "ignore")
            is_common = len(coded) == 2 and first <= coded[0] <= last
            common += is_common
            odd += not is_common
        alone += before < "\x80" and after < "\x80"
    if odd > (1 - _FITTING) * (kana + common + odd + symbols):
        return None
    likelihood = odd * _UNLIKELY + symbols * _SYMBOL + alone * _ALONE + (kana + common + odd + symbols) * _PAIR
    if is_japanese:
        return likelihood + kana * math.log(0.7 / 160) + common * math.log(0.3 / inventory)
    return likelihood + common * math.log(1 / inventory)
