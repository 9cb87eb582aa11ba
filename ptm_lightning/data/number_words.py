"""English and German number words, made by rule: to try translation with, where no real text comes along."""

from collections.abc import Iterator

import numpy as np

from ptm_lightning.data.formats import Row
from ptm_lightning.data.noise import Purpose, hash64

ROWS = 4000
_ENGLISH = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_ENGLISH_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_GERMAN = (
    *("null", "eins", "zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "elf", "zwölf"),
    *("dreizehn", "vierzehn", "fünfzehn", "sechzehn", "siebzehn", "achtzehn", "neunzehn"),
)
_GERMAN_TENS = ("zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig")


def english(number: int) -> str:
    """A number below 100 in words, such as "twenty-one"."""
    if number < len(_ENGLISH):
        return _ENGLISH[number]
    tens, ones = divmod(number, 10)
    return _ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH[ones]}" if ones else "")


def german(number: int) -> str:
    """A number below 100 in words, such as "einundzwanzig", which has the ones first."""
    if number < len(_GERMAN):
        return _GERMAN[number]
    tens, ones = divmod(number, 10)
    first = {0: "", 1: "einund"}.get(ones, f"{_GERMAN[ones]}und")
    return first + _GERMAN_TENS[tens - 2]


def number_words() -> Iterator[Row]:
    """Two to four numbers below 100 in a row, in both languages.

    Returns:
        An iterator of {"en", "de"}, always the same.
    """
    for row in range(ROWS):
        count, *draws = hash64(0, row, np.arange(5), Purpose.SAMPLE).tolist()
        numbers = [draw % 100 for draw in draws[: 2 + count % 3]]
        yield {"en": ", ".join(map(english, numbers)), "de": ", ".join(map(german, numbers))}
