"""BLEU, chrF++ and TER as sacrebleu has them."""

import random

import pytest
import sacrebleu

from ptm_lightning.metrics.translation import (
    how_it_is_cut,
    is_misnamed,
    sentence_score,
    signatures,
    translation_scores,
)

WORDS = [
    "Das",
    "Haus",
    "ist",
    "groß",
    ",",
    "und",
    "der",
    "Hund",
    "schläft",
    ".",
    "Nein",
    "!",
    "3,5",
    "Tage",
    "naïv",
    "'ne",
    "U-Bahn",
]


def test_scores_equal_sacrebleu_over_the_corpus():
    draw = random.Random(0)
    right = [" ".join(draw.choices(WORDS, k=draw.randrange(4, 20))) for _ in range(60)]
    said = [" ".join(word if draw.random() < 0.8 else draw.choice(WORDS) for word in text.split()) for text in right]
    said[:4] = ["", "Haus", "Das", "Das Haus ist groß"]
    assert translation_scores(said, right, "de") == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(said, [right]).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(said, [right], word_order=2).score),
        "ter": pytest.approx(sacrebleu.corpus_ter(said, [right]).score),
    }
    by_sentence = [translation_scores([a], [b], "de")["bleu"] for a, b in zip(said, right, strict=True)]
    assert abs(translation_scores(said, right, "de")["bleu"] - sum(by_sentence) / 60) > 1  # it is no mean


@pytest.mark.parametrize(("language", "cut"), [("zh", "zh"), ("zh_CN", "zh"), ("zho_Hans", "zh"), ("ja_XX", "char")])
def test_languages_without_spaces(language: str, cut: str):
    said, right = ["我们今天去公园散步吧"], ["我们今天去大公园散步"]
    found = translation_scores(said, right, language)
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [right], tokenize=cut).score)
    assert found["bleu"] > 40
    assert 0 < found["ter"] < 50  # words of one character each
    assert translation_scores(said, right, "de")["bleu"] == 0
    assert f"tok:{cut}" in signatures(language)["bleu"]


@pytest.mark.parametrize("language", ["th", "th_TH", "tha_Thai", "lo", "khm_Khmr", "my_MM", "bod_Tibt"])
def test_thai_and_its_like_are_cut_into_characters_and_have_no_ter(language: str):
    said, right = ["วันนี้เราไปเดินเล่นในสวน"], ["วันนี้เราไปเดินเล่นในสวนใหญ่"]
    found = translation_scores(said, right, language)
    assert found.keys() == {"bleu", "chrf"}
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [right], tokenize="char").score)
    assert found["bleu"] > 50
    assert translation_scores(said, right, "de")["bleu"] == 0  # the sentence is a word
    assert "tok:char" in signatures(language)["bleu"]
    assert "ter" not in signatures(language)
    told = how_it_is_cut(language)
    assert told.startswith(f"bleu: cuts {language} into characters (tok:char)")
    assert "--tokenize flores200; there is no TER" in told


def test_korean_is_cut_into_characters_and_its_words_have_a_ter():
    said, right = ["오늘 우리는 공원에서 산책했다"], ["오늘 우리는 큰 공원을 산책했다"]
    found = translation_scores(said, right, "ko_KR")
    assert found["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [right], tokenize="char").score)
    assert found["ter"] == pytest.approx(sacrebleu.corpus_ter(said, [right]).score)
    assert how_it_is_cut("kor_Hang").endswith("sacrebleu --tokenize ko-mecab (pip install 'sacrebleu[ko]')")
    assert how_it_is_cut("ja").endswith("sacrebleu --tokenize ja-mecab (pip install 'sacrebleu[ja]')")
    assert how_it_is_cut("de") == how_it_is_cut("zh") == ""


@pytest.mark.parametrize(
    ("language", "text", "misnamed"),
    [
        ("target", "我们今天去公园散步吧。", True),
        ("thai", "วันนี้เราไปเดินเล่นในสวน", True),
        ("target", "今日は公園へ散歩に行きます", True),
        ("zh_CN", "我们今天去公园散步吧。", False),
        ("tha_Thai", "วันนี้เราไปเดินเล่นในสวน", False),
        ("en", "The word 散步 means a walk.", False),
        ("hi", "आज हम पार्क में टहलने गए", False),
        ("ko", "오늘 우리는 공원에서 산책했다", False),
        ("target", "!?", False),
    ],
)
def test_a_name_that_hides_a_language_without_spaces(language: str, text: str, misnamed: bool):
    assert is_misnamed(language, [text, [text, text]]) is misnamed
    assert not is_misnamed(language, [])


@pytest.mark.parametrize("text", ["", "Haus"])
def test_short_answers(text: str):
    found = translation_scores([text], ["Das Haus ist groß"], "de")
    assert found["bleu"] == 0
    assert found["ter"] == (100 if not text else 75)


def test_a_copy_of_the_reference_is_perfect():
    text = ["Das Haus ist sehr groß."]
    assert translation_scores(text, text, "de") == {"bleu": pytest.approx(100), "chrf": 100, "ter": 0}
    assert sentence_score(*text, *text) == 100 > sentence_score("Das Haus", *text) > 0


def test_signatures_say_what_was_done():
    found = signatures("de")
    assert found["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nw:2" in found["chrf"]
    assert "tok:tercom" in found["ter"]


def test_several_references_are_sacrebleus():
    """An example may have fewer than others."""
    said = ["the cat sat", "a dog ran home", "no", ""]
    right = [["a cat sat", "the cat sat down"], "the dog ran home", ["no", "never", " "], ["x", "y"]]
    lists = [["a cat sat", "the dog ran home", "no", "x"], ["the cat sat down", None, "never", "y"]]
    assert translation_scores(said, right, "en") == {
        "bleu": pytest.approx(sacrebleu.corpus_bleu(said, lists).score),
        "chrf": pytest.approx(sacrebleu.corpus_chrf(said, lists, word_order=2).score),
        "ter": pytest.approx(sacrebleu.corpus_ter(said, lists).score),
    }
    assert sentence_score(said[0], right[0]) > max(sentence_score(said[0], one) for one in right[0]) - 1e-9
    for numbers, named in (([1], "nrefs:1"), ([3], "nrefs:3"), ([1, 2], "nrefs:var")):
        assert all(text.startswith(named) for text in signatures("en", numbers).values())
