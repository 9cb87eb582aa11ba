"""English and German number words, made by rule: to try translation with, where no real text comes along."""

from collections.abc import Iterator

import numpy as np

from ptm_lightning.data.formats import Row
from ptm_lightning.data.noise import Purpose, hash64

ROWS = 6000
LARGEST = 1000
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
    """A number below 1,000 in words, such as "two hundred and twenty-one"."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        beginning = f"{_ENGLISH[hundreds]} hundred"
        return f"{beginning} and {english(rest)}" if rest else beginning
    if number < len(_ENGLISH):
        return _ENGLISH[number]
    tens, ones = divmod(number, 10)
    return _ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH[ones]}" if ones else "")


def german(number: int) -> str:
    """A number below 1,000 in words, such as "zweihunderteinundzwanzig"."""
    hundreds, rest = divmod(number, 100)
    if hundreds:
        return f"{_stem(hundreds)}hundert{german(rest) if rest else ''}"
    if number < len(_GERMAN):
        return _GERMAN[number]
    tens, ones = divmod(number, 10)
    return (f"{_stem(ones)}und" if ones else "") + _GERMAN_TENS[tens - 2]


def _stem(number: int) -> str:
    """A German digit as the first part of a word."""
    return "ein" if number == 1 else _GERMAN[number]


def number_words() -> Iterator[Row]:
    """Two to five numbers below 1,000 in a row, in both languages, small ones more often than large ones.

    Returns:
        An iterator of {"en", "de"}, always the same.
    """
    for row in range(ROWS):
        draws = hash64(0, row, np.arange(6), Purpose.SAMPLE).tolist()
        numbers = [draw % (20, 100, LARGEST)[draw // LARGEST % 3] for draw in draws[: 2 + draws[5] % 4]]
        yield {"en": ", ".join(map(english, numbers)), "de": ", ".join(map(german, numbers))}
