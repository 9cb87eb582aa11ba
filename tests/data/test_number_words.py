import pytest

from ptm_lightning.data.builtin import BUILTIN
from ptm_lightning.data.number_words import english, german


@pytest.mark.parametrize(
    ("number", "words", "german_words"),
    [
        (0, "zero", "null"),
        (1, "one", "eins"),
        (12, "twelve", "zwölf"),
        (16, "sixteen", "sechzehn"),
        (17, "seventeen", "siebzehn"),
        (20, "twenty", "zwanzig"),
        (21, "twenty-one", "einundzwanzig"),
        (30, "thirty", "dreißig"),
        (46, "forty-six", "sechsundvierzig"),
        (77, "seventy-seven", "siebenundsiebzig"),
        (99, "ninety-nine", "neunundneunzig"),
    ],
)
def test_words(number: int, words: str, german_words: str):
    assert (english(number), german(number)) == (words, german_words)


def test_every_number_has_words_of_its_own():
    for words in (english, german):
        assert len({words(number) for number in range(100)}) == 100


def test_rows_are_aligned_and_always_the_same():
    rows = list(BUILTIN["number_words"]())
    assert rows == list(BUILTIN["number_words"]())
    back = {german(number): english(number) for number in range(100)}
    for row in rows:
        assert [back[word] for word in row["de"].split(", ")] == row["en"].split(", ")
    assert {row["en"].count(",") for row in rows} == {1, 2, 3}
    assert len({row["en"] for row in rows}) > len(rows) * 0.9
