# ruff: noqa: RUF001 - punctuation of many scripts is meant
import unicodedata
from itertools import pairwise
from pydoc_data.topics import topics

import numpy as np
import pytest
import regex

from ptm_lightning.data.sentence_marks import DOTS, GOES_ON, SENTENCE_TERMINALS
from ptm_lightning.data.sentences import hashes, spans


def sentences(text: str) -> list[str]:
    return [text[start:end] for start, end in spans(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n ", []),
        ("No mark", ["No mark"]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Dr. Smith met J. R. Tolkien, e.g. Here. Then", ["Dr. Smith met J. R. Tolkien, e.g. Here.", "Then"]),
        (
            "It is 3.14 on example.org. See No. 5. He said no. Why",
            ["It is 3.14 on example.org.", "See No. 5.", "He said no.", "Why"],
        ),
        ('"What?" he asked. "Yes!" Done...', ['"What?" he asked.', '"Yes!"', "Done..."]),
        ('A.\n"Quoted" line', ["A.", '"Quoted" line']),
        ("1. First\n2. Second", ["1. First", "2. Second"]),
        ("A wrapped\n  line ends.\n\nnew one\n\nand one", ["A wrapped\n  line ends.", "new one", "and one"]),
        ("Title\nText", ["Title", "Text"]),
        ("他说：「你好。」我也是！真的？是", ["他说：「你好。」", "我也是！", "真的？", "是"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences(text) == expected


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("Amharic", ["ሰላም ነው።", "እንዴት ነህ፧", "ደህና ነኝ።"]),
        ("Arabic", ["كيف حالك؟", "أنا بخير.", "شكرا!"]),
        ("Armenian", ["Բարեւ ձեզ։", "Ես լավ եմ։", "Շնորհակալ եմ։"]),
        ("Bengali", ["আমি ভালো আছি।", "তুমি কেমন আছ?", "ধন্যবাদ।"]),
        ("Burmese", ["နေကောင်းလား။", "ကောင်းပါတယ်။"]),
        ("French", ["Où est M. Dupont\u00a0?", "Il est là\u00a0!", "Merci."]),
        (
            "German",
            ["Am 3. Oktober, z. B. Dienstag, kam u. a. Herr Dr. Maier.", "Es war 9 Uhr.", "Ende des 19. Jahrhunderts."],
        ),
        ("German", ["Vgl. Abb. 3 im Bd. 2.", "Es kostet 5 Mio. Euro inkl. MwSt. am 1. Jan. 2020.", "Ende."]),
        ("German", ["Sie ist 30.", "Er ist alt.", "Am 31. Dezember, d. h. Silvester."]),
        ("Chakma", ["𑄌𑄋𑄴𑄟𑄳𑄦𑄴𑅁", "𑄟𑄧𑄚𑅃", "𑄌𑄋𑄴𑅁"]),
        ("Greek", ["Καλημέρα.", "Είμαι καλά!", "Ευχαριστώ."]),
        ("Hindi", ["आप कैसे हैं?", "मैं ठीक हूँ।", "धन्यवाद॥"]),
        ("Khmer", ["ខ្ញុំសុខសប្បាយ។", "អរគុណ។"]),
        ("Korean", ["잘 지내요?", "네, 잘 지내요.", "고마워요!"]),
        ("Russian", ["Как дела?", "У А. С. Пушкина всё хорошо.", "Спасибо!"]),
        ("Spanish", ["¿Cómo estás?", "¡Muy bien!", "El Sr. López vino."]),
        ("Urdu", ["آپ کیسے ہیں؟", "میں ٹھیک ہوں۔", "شکریہ۔"]),
    ],
)
def test_languages(language: str, expected: list[str]) -> None:
    assert sentences(" ".join(expected)) == expected


@pytest.mark.parametrize(
    "expected",
    [
        ["你好．", "我很好．"],
        ["你好吗?", "我很好.", "他走了!"],
        ['他说:"走."', "我不走!?", "为什么"],
        ["我……不...知道第３．５章和3.5版.", "文件.txt和图.PNG都在."],
        ["１．圆周率是３．１４．", "对"],
        ["「你好。」，他说。", "「真的！」", "是"],
        ["元気ですか?", "はい｡", "カナ.", "終わり"],
        ["နေကောင်းလား။", "ကောင်းပါတယ်။"],
        ["کیسے؟", "ٹھیک۔", "شکریہ"],
    ],
)
def test_scripts_that_need_no_space(expected: list[str]) -> None:
    assert sentences("".join(expected)) == expected


def test_marks_are_those_of_unicode() -> None:
    terminal = regex.compile(r"\p{Sentence_Terminal}")
    known = {name for name in map(chr, range(0x110000)) if unicodedata.category(name) not in ("Cn", "Cs")}
    assert {c for c in known if terminal.match(c)} == known & set(SENTENCE_TERMINALS)
    assert {c for c in SENTENCE_TERMINALS if regex.match(r"\p{SB=ATerm}", c)} == DOTS
    assert set(filter(regex.compile(r"\p{SB=SContinue}").match, known)) == GOES_ON


def test_spans_rise_and_hold_all_that_is_not_space() -> None:
    for text in topics.values():
        found = spans(text)
        assert all(end <= start for (_, end), (start, _) in pairwise(found))
        assert "".join("".join(text[start:end].split()) for start, end in found) == "".join(text.split())
        assert all(text[start:end].strip() == text[start:end] != "" for start, end in found)


def test_hashes_ignore_case_and_white_space_only() -> None:
    one, same, other = (
        hashes(text, spans(text))
        for text in ("The  cat\n sat. It ate.", "the CAT sat.\tIt ate.", "The cat sits. It ate.")
    )
    np.testing.assert_array_equal(one, same)
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert one.dtype == np.uint64
    assert len(hashes("", [])) == 0
    assert len(hashes("half a pair \ud800", [(0, 13)])) == 1
