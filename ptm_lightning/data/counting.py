"""Conversations on what number comes next, made by rule: to try dialogue with, where no real ones come along."""

from collections.abc import Iterator

import numpy as np

from ptm_lightning.data.formats import Row
from ptm_lightning.data.noise import Purpose, hash64
from ptm_lightning.data.number_words import english, german

ROWS = 3000
TURNS = 4
"""Questions of the longest conversation."""
GERMAN = "Answer in German."
AGAIN = "And then?"


def conversations() -> Iterator[Row]:
    """One to four questions on numbers from 10 to 89, each with its answer; some need what was said before.

    The system asks for German in half of them. None comes twice.

    Returns:
        An iterator of {"messages"}, always the same.
    """
    seen: set[str] = set()
    for row in range(ROWS):
        system, count, number, step, *kinds = hash64(0, row, np.arange(4 + TURNS), Purpose.SAMPLE).tolist()
        messages = [{"role": "system", "content": GERMAN}] if system % 2 else []
        number, step = 10 + number % 80, 1 if step % 2 else -1
        for turn, kind in enumerate(kinds[: 1 + count % TURNS]):
            again = turn > 0 and kind % 2 == 0
            step = step if again or turn == 0 else -step
            asked = AGAIN if again else f"What comes {'after' if step > 0 else 'before'} {english(number)}?"
            answer = _in_german(number, step) if system % 2 else _in_english(number, step)
            messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
            number += step
        if (text := str(messages)) not in seen:
            seen.add(text)
            yield {"messages": messages}


def _in_english(number: int, step: int) -> str:
    return f"{'After' if step > 0 else 'Before'} {english(number)} comes {english(number + step)}."


def _in_german(number: int, step: int) -> str:
    return f"{'Nach' if step > 0 else 'Vor'} {german(number)} kommt {german(number + step)}."
