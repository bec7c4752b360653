"""A file that is not UTF-8 gets a command to convert it only if that command restores every letter."""

from __future__ import annotations

import gzip
import re
import subprocess
from pathlib import Path

import pytest
from data_fixtures import tokenizer, write_jsonl
from reading import reading, refusal

from engine.config.schema import Data
from engine.data.prepare import prepare
from engine.data.readers.encodings import _ICONV, encoding_hint, is_misread

TEXTS = {
    "French": (
        "Le café était déjà fermé, à côté de l’hôtel où Noël a dîné. Ça coûte 12 € par mois. La forêt est très belle "
        "en été. Il a reçu une lettre de sa sœur. Où êtes-vous allés hier ? Nous préférons le thé à la crème brûlée."
    ),
    "German": (
        "Die Rechnung für März ist noch nicht bezahlt. Können Sie mir größere Schuhe schicken? Das Gerät lässt sich "
        "nicht einschalten. Übermorgen fahren wir nach München. Der Preis beträgt 15 € pro Stück. Schöne Grüße!"
    ),
    "Spanish": (
        "¿Dónde está mi pedido? El niño comió una manzana. Mañana llegará el señor Núñez con su hija. "
        "La canción es muy bonita. ¡Qué día más largo! El pingüino nadó hasta la isla. Sí, también quiero café."
    ),
    "Portuguese": (
        "Não consigo abrir a aplicação. O coração bate depressa. Amanhã às três horas há uma reunião. "
        "Você já recebeu as encomendas? A avó fez pão e maçãs. São João é em junho. A informação está incorreta."
    ),
    "Italian": (
        "Perché la città è così bella? Il caffè costa più del tè. La qualità è buona, però la quantità è poca. "
        "Lunedì arriverà il pacco. Non c’è nessuna novità. Può darsi che sia già partito."
    ),
    "Danish": (
        "Jeg vil gerne købe en blå bil. Hvor ligger ærøskøbing? Vi spiser rødgrød med fløde. Hun går på arbejde hver "
        "dag. Det er en smuk ø. Børnene læser bøger og hører musik. Året har tolv måneder."
    ),
    "Swedish": (
        "Jag åker till Malmö på måndag. Var är min beställning? Det är för dyrt för mig. Kan du hjälpa mig att öppna "
        "lådan? Vädret är fint i dag. Hästen äter gräs på ängen."
    ),
    "Finnish": (
        "Hyvää päivää, missä tilaukseni on? Tänään sää on kylmä. Hän ei pääse töihin. Äiti keittää kahvia keittiössä. "
        "Yöllä näkyy tähtiä."
    ),
    "Icelandic": "Það er gott veður í dag. Ég á tvær bækur og þrjá hesta. Hvar er pöntunin mín? Hún fór út að ganga.",
    "Polish": (
        "Zażółć gęślą jaźń. Gdzie jest moja przesyłka? Proszę o zwrot pieniędzy. Książka leży na stole. "
        "Wczoraj padał śnieg. Czy możecie mi pomóc? Łódź jest dużym miastem. Dziękuję bardzo za odpowiedź."
    ),
    "Czech": (
        "Příliš žluťoučký kůň úpěl ďábelské ódy. Kde je moje zásilka? Děkuji za rychlou odpověď. Včera pršelo celý "
        "den. Můžete mi prosím pomoci? Chtěl bych vrátit zboží."
    ),
    "Hungarian": (
        "Árvíztűrő tükörfúrógép. Hol van a csomagom? Köszönöm a gyors választ. Tegnap egész nap esett az eső. "
        "Szeretném visszaküldeni a terméket. A könyv az asztalon fekszik, és nem működik a készülék."
    ),
    "Croatian": (
        "Gdje je moja pošiljka? Hvala na brzom odgovoru. Jučer je cijeli dan padala kiša. Želim vratiti robu. "
        "Čovjek čeka u kući. Možete li mi pomoći? Đak ide u školu."
    ),
    "Lithuanian": (
        "Kur yra mano siuntinys? Ačiū už greitą atsakymą. Vakar visą dieną lijo. Norėčiau grąžinti prekę. "
        "Knyga guli ant stalo. Šiandien labai šalta, bet žmonės eina į darbą."
    ),
    "Latvian": (
        "Kur ir mans sūtījums? Paldies par ātro atbildi. Vakar visu dienu lija lietus. Es vēlos atgriezt preci. "
        "Grāmata guļ uz galda. Šodien ir ļoti auksts, un cilvēki iet uz darbu."
    ),
    "Estonian": "Kus on minu pakk? Tänan kiire vastuse eest. Eile sadas terve päeva. Õues on külm ja öösel lööb välku.",
    "Turkish": (
        "Siparişim nerede? Hızlı yanıt için teşekkür ederim. Dün bütün gün yağmur yağdı. Ürünü geri göndermek "
        "istiyorum. Kitap masanın üzerinde. İstanbul çok büyük bir şehir."
    ),
    "Russian": (
        "Где мой заказ? Спасибо за быстрый ответ. Вчера весь день шёл дождь. Я хочу вернуть товар. Книга лежит на "
        "столе. Можете ли вы мне помочь? Объясните, пожалуйста, как оплатить счёт."
    ),
    "Ukrainian": (
        "Де моє замовлення? Дякую за швидку відповідь. Учора весь день ішов дощ. Я хочу повернути товар. Книга лежить "
        "на столі. Її друг живе в Києві."
    ),
    "Bulgarian": (
        "Къде е моята поръчка? Благодаря за бързия отговор. Вчера цял ден валя дъжд. Искам да върна стоката. "
        "Книгата лежи на масата."
    ),
    "Greek": (
        "Πού είναι η παραγγελία μου; Ευχαριστώ για τη γρήγορη απάντηση. Χθες έβρεχε όλη μέρα. Θέλω να επιστρέψω το "
        "προϊόν. Το βιβλίο είναι πάνω στο τραπέζι."
    ),
    "Japanese": (
        "注文した商品はどこですか。早い返事をありがとうございます。昨日は一日中雨でした。"
        "商品を返品したいです。本は机の上にあります。カードが届きません。"
    ),
    "Chinese": (
        "我的订单在哪里？谢谢您的快速回复。昨天下了一整天的雨。我想退货。书在桌子上。请问如何更改我的密码？"
        "银行卡还没有收到。"
    ),
    "Korean": (
        "제 주문은 어디에 있습니까? 빠른 답변 감사합니다. 어제는 하루 종일 비가 왔습니다. 상품을 반품하고 싶습니다. "
        "책은 책상 위에 있습니다."
    ),
}
ENCODINGS = {
    "cp1252": "French German Spanish Portuguese Italian Danish Swedish Finnish Icelandic Estonian",
    "latin-1": "German Spanish Portuguese Danish Swedish Finnish Icelandic",
    "mac_roman": "French German Spanish Portuguese Italian Danish Swedish",
    "cp850": "German Spanish Portuguese Danish Swedish Finnish",
    "cp1250": "Polish Czech Hungarian Croatian German",
    "iso8859-2": "Polish Czech Hungarian Croatian",
    "cp852": "Polish Czech Hungarian Croatian",
    "cp1257": "Lithuanian Latvian Estonian",
    "cp1254": "Turkish",
    "cp1251": "Russian Ukrainian Bulgarian",
    "koi8-r": "Russian",
    "cp866": "Russian",
    "cp1253": "Greek",
    "cp932": "Japanese",
    "euc_jp": "Japanese",
    "gb18030": "Chinese",
    "cp949": "Korean",
}
CASES = [(name, language) for name, languages in ENCODINGS.items() for language in languages.split()]


def encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("cp1252", "cp1250", "mac_roman"):  # the older ones have neither
        text = text.replace("€", "EUR").replace("’", "'")
    return text.encode(encoding)


def hint_for(content: bytes, name: str = "a.txt") -> str:
    return encoding_hint([content], Path(name))


def restored(hint: str, content: bytes) -> str | None:
    """What the command in a hint makes of the file; None if it has no command."""
    if "iconv -f" not in hint:
        return None
    spelled = hint.split("iconv -f ")[1].split()[0]
    return content.decode({there: here for here, there in _ICONV.items()}.get(spelled, spelled))


@pytest.mark.parametrize(("encoding", "language"), CASES)
def test_a_command_never_changes_letters(encoding: str, language: str) -> None:
    content = encoded(TEXTS[language], encoding)
    truth = content.decode(encoding)
    words = truth.split() if " " in truth else [truth[n : n + 6] for n in range(0, len(truth), 6)]
    pieces = [truth, *words]
    pieces += [" ".join(words[n : n + size]) for size in (2, 4, 8, 16) for n in range(0, len(words), size)]
    for piece in pieces:
        raw = piece.encode(encoding)
        if piece.isascii():
            continue
        command = restored(hint_for(raw), raw)
        assert command is None or "".join(filter(str.isalpha, command)) == "".join(filter(str.isalpha, piece))


@pytest.mark.parametrize(("encoding", "language"), CASES)
def test_a_page_of_text_gets_its_command(encoding: str, language: str) -> None:
    content = encoded(TEXTS[language], encoding)
    assert restored(hint_for(content), content) == content.decode(encoding)


@pytest.mark.parametrize("name", ["a table.csv", "a.csv.gz", "a.json", "a.txt", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["cp1252", "mac_roman", "utf-16", "utf-16-le"])
def test_following_the_command_leads_to_the_rows(name: str, encoding: str, tmp_path: Path) -> None:
    sentences = [sentence.strip() for sentence in TEXTS["French"].split(".")]
    if ".csv" in name:
        text = "text,label\n" + "".join(f'"{sentence}",{n % 2}é\n' for n, sentence in enumerate(sentences))
    elif ".json" in name:
        items = [f'{{"prompt": "{sentence}", "completion": "déjà"}}' for sentence in sentences]
        text = "\n".join(items) if name.endswith("l") else f"[{','.join(items)}]"
    else:
        text = "\n".join(sentences)
    path = tmp_path / name
    content = text.encode(encoding)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    error = refusal(path)
    assert error.code == "data.not_utf8"
    command = re.findall("`([^`]+)`", error.hint)[0]
    subprocess.run(["bash", "-c", command], check=True, capture_output=True)
    read_again = str(reading(path).examples)
    assert "Noël" in read_again and "êtes" in read_again


def test_lines_of_two_encodings_get_no_command() -> None:
    lines = [f"{TEXTS['French']},{n}" for n in range(4)]
    content = b"\n".join([*(line.encode("cp1252") for line in lines[:3]), lines[3].encode()])
    hint = hint_for(content)
    assert "iconv" not in hint and "line 4" in hint


def test_candidates_with_other_letters_are_shown_with_their_places() -> None:
    hint = hint_for(b"caf\xe9\n\nDvo\xf8\xe1k")
    assert "iconv -f" not in hint
    assert "line 3 'Dvoøák' (cp1252) or 'Dvořák' (cp1250)" in hint and "line 1" not in hint


@pytest.mark.parametrize("language", TEXTS)
def test_misread_text_is_recognized_and_other_text_is_not(language: str) -> None:
    text = TEXTS[language]
    assert not is_misread(text) and not is_misread(text.upper())
    words = text.split()
    for start in range(0, len(words), 8):
        piece = " ".join(words[start : start + 8])
        misread = piece.encode().decode("latin-1")
        assert is_misread(misread) or len(re.findall(r"[^\x00-\x7f]", piece)) < 2
    assert is_misread(text.encode().decode("cp1252", "replace"))


def test_misread_text_is_warned_of_with_its_rows(tmp_path: Path) -> None:
    rows = [{"prompt": f"prompt {n}", "completion": "déjà"} for n in range(4)]
    rows[2]["completion"] = "dÃ©jÃ\xa0"
    rows[3]["prompt"] = "it costs ｣5"
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    warnings = prepare(Data(id=str(path), test=0.0, validation=0.0), 256, tokenizer()).warnings()
    (found,) = [notice for notice in warnings if notice.code == "data.misread_text"]
    assert found.text.startswith("2 rows") and "line 3" in found.text
