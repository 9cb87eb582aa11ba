"""Exact match and F1 of answers, as SQuAD's scripts define them.

References:
    - SQuAD, 2016, https://arxiv.org/abs/1606.05250; SQuAD 2, 2018, https://arxiv.org/abs/1806.03822
    - F1 over characters: MLQA, 2019, https://arxiv.org/abs/1910.07475
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

Units = Literal["auto", "words", "characters"]
"""What the F1 of two answers is taken over."""

ARTICLE = re.compile(r"\b(a|an|the)\b")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of Chinese and Japanese, which are written without spaces."""
PUNCTUATION = set(string.punctuation)


@dataclass(frozen=True)
class Answered:
    """A question, its right answers, and what was found."""

    right: Sequence[str]
    """None if there is no answer."""
    text: str
    """The best answer, whether or not it is given."""
    doubt: float
    """By how much "there is no answer" is the better one."""


def words(text: str) -> list[str]:
    """The words that count, as SQuAD's scripts have it: in lower case, without punctuation and articles."""
    kept = "".join(c for c in text.lower() if c not in PUNCTUATION)
    return ARTICLE.sub(" ", kept).split()


def characters(text: str) -> list[str]:
    """For text without spaces: each Chinese or Japanese character, and the words between; without punctuation."""
    kept = "".join(c for c in text.lower() if c not in PUNCTUATION and not unicodedata.category(c).startswith("P"))
    return UNSPACED.sub(r" \g<0> ", kept).split()


def exact(found: Sequence[str], right: Sequence[str]) -> float:
    """1 if both have the same words in the same order, else 0."""
    return float(list(found) == list(right))


def overlap(found: Sequence[str], right: Sequence[str]) -> float:
    """F1 of two bags of words; if one is empty, 1 if both are, else 0."""
    if not found or not right:
        return float(found == right)
    shared = (Counter(found) & Counter(right)).total()
    return 2 * shared / (len(found) + len(right))


MEASURES: dict[str, Callable[[Sequence[str], Sequence[str]], float]] = {"exact_match": exact, "f1": overlap}


def by_question(records: Sequence[Mapping[str, Any]]) -> dict[int, Answered]:
    """What is found for each question, by its number."""
    windows = groupby(records, key=lambda record: record["question"])
    return {question: over_windows(list(mine)) for question, mine in windows}


def over_windows(records: Sequence[Mapping[str, Any]]) -> Answered:
    """A question with the best answer of all its windows; no answer is as good as in the window where it is worst."""
    best = max(records, key=lambda record: record["score"])
    return Answered(best["right"], best["text"], min(record["no_answer"] for record in records) - best["score"])


def answer_scores(answered: Iterable[Answered], threshold: float | None, units: Units = "auto") -> dict[str, float]:
    """Exact match and F1 in percent; with unanswerable questions also for both kinds apart, and at the best threshold.

    They are those of SQuAD 2's script; SQuAD's own differs only for right answers of nothing but articles and
    punctuation.

    Args:
        answered: At least one.
        threshold: No answer is given to a question whose doubt is above it; None: each is answered.
        units: "auto" is characters if most letters of the right answers are Chinese or Japanese.

    Returns:
        Metrics by name. The best threshold is found on these very questions: of use on validation data.
    """
    questions = list(answered)
    split = splitter(units, (text for question in questions for text in question.right))
    given = [threshold is None or question.doubt <= threshold for question in questions]
    has = [bool(question.right) for question in questions]
    scores: dict[str, float] = {}
    for name, measure in MEASURES.items():
        kept = [_best(question.text, question.right, split, measure) for question in questions]
        empty = [_best("", question.right, split, measure) for question in questions]
        values = [a if answers else b for a, b, answers in zip(kept, empty, given, strict=True)]
        scores[name] = _percent(values)
        if all(has):
            continue
        if any(has):
            scores[f"has_answer_{name}"] = _percent([v for v, there in zip(values, has, strict=True) if there])
        scores["no_answer_accuracy"] = _percent([v for v, there in zip(values, has, strict=True) if not there])
        scores[f"best_{name}"], _ = _best_threshold([question.doubt for question in questions], kept, empty)
    return scores


def question_scores(
    answered: Iterable[Answered], threshold: float | None, units: Units = "auto"
) -> dict[str, list[float]]:
    """Exact match and F1 of each question, in percent: `answer_scores` gives their means."""
    questions = list(answered)
    split = splitter(units, (text for question in questions for text in question.right))
    given = [question.text if threshold is None or question.doubt <= threshold else "" for question in questions]
    return {
        name: [
            100 * _best(text, question.right, split, measure) for text, question in zip(given, questions, strict=True)
        ]
        for name, measure in MEASURES.items()
    }


def best_threshold(answered: Iterable[Answered], units: Units = "auto") -> float | None:
    """The doubt up to which answers are to be given for the highest F1; None if every question has an answer.

    Of equally good ones it is the lowest, as in SQuAD 2's script.
    """
    questions = list(answered)
    if all(question.right for question in questions):
        return None
    return _best_threshold([question.doubt for question in questions], *_f1_of_both(questions, units))[1]


def f1_by_threshold(answered: Sequence[Answered], units: Units = "auto") -> tuple[list[float], list[float]]:
    """The mean F1 in percent for each doubt that occurs as the threshold, from the lowest on."""
    kept, empty = _f1_of_both(answered, units)
    ranked = sorted(range(len(answered)), key=lambda number: answered[number].doubt)
    total, means = sum(empty), dict[float, float]()
    for number in ranked:
        total += kept[number] - empty[number]
        means[answered[number].doubt] = 100 * total / len(answered)  # of equal doubts the last one counts
    return list(means), list(means.values())


def _f1_of_both(answered: Sequence[Answered], units: Units) -> tuple[list[float], list[float]]:
    """Of each question, the F1 if it is answered, and if it is not."""
    split = splitter(units, (text for question in answered for text in question.right))
    kept = [_best(question.text, question.right, split, overlap) for question in answered]
    return kept, [_best("", question.right, split, overlap) for question in answered]


def splitter(units: Units, right: Iterable[str]) -> Callable[[str], list[str]]:
    """What cuts an answer into what is compared."""
    if units == "auto":
        letters = Counter(bool(UNSPACED.match(c)) for text in right for c in text if c.isalpha())
        units = "characters" if letters[True] > letters[False] else "words"
    return characters if units == "characters" else words


def _best(
    text: str,
    right: Sequence[str],
    split: Callable[[str], list[str]],
    measure: Callable[[Sequence[str], Sequence[str]], float],
) -> float:
    """The score by the right answer that it is nearest to; those without a word don't count if others have some."""
    answers = [answer for answer in map(split, right) if answer] or [[]]
    return max(measure(split(text), answer) for answer in answers)


def _best_threshold(doubts: Sequence[float], kept: Sequence[float], empty: Sequence[float]) -> tuple[float, float]:
    """The highest mean in percent, and the lowest doubt up to which answers are given for it.

    Args:
        doubts: By question.
        kept: Its score if it is answered.
        empty: Its score if it is not.
    """
    order = sorted(range(len(doubts)), key=doubts.__getitem__)
    total = best = sum(empty)
    threshold = doubts[order[0]] - 1
    for place, number in enumerate(order):
        total += kept[number] - empty[number]
        ends = place + 1 == len(order) or doubts[order[place + 1]] > doubts[number]
        if ends and total > best + 1e-9:
            best, threshold = total, doubts[number]
    return 100 * best / len(doubts), threshold


def _percent(values: Sequence[float]) -> float:
    return 100 * sum(values) / len(values)
