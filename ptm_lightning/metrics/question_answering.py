"""Exact match and F1 of answers, as the scripts of SQuAD and SQuAD 2 define them.

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
from typing import Any, Literal, Self

Units = Literal["auto", "words", "characters"]
"""What the F1 of two answers is taken over."""

ARTICLE = re.compile(r"\b(a|an|the)\b")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of Chinese and Japanese, which are written without spaces."""
PUNCTUATION = set(string.punctuation)
Measure = Callable[[Sequence[str], Sequence[str]], float]


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


def overlap_of_words(found: Sequence[str], right: Sequence[str]) -> float:
    """The same, but 0 if both are empty."""
    return overlap(found, right) if found else 0.0


@dataclass(frozen=True)
class Rules:
    """How an answer is compared with the right ones.

    The two scripts differ in answers without a word, of articles and punctuation alone. In SQuAD's, a right answer of
    that kind counts like others, and the F1 of two of them is 0, as they share no word. In SQuAD 2's it counts only
    where the question has no other, and the F1 of two is 1.
    """

    split: Callable[[str], list[str]]
    """Cuts an answer into what is compared."""
    measures: Mapping[str, Measure]
    """By name."""
    with_none: bool
    """Whether a question may have no answer: SQuAD 2."""

    @classmethod
    def of(cls, questions: Sequence[Answered], units: Units) -> Self:
        """Those of SQuAD 2 if a question has no answer, else those of SQuAD."""
        with_none = not all(question.right for question in questions)
        split = splitter(units, (text for question in questions for text in question.right))
        return cls(split, {"exact_match": exact, "f1": overlap if with_none else overlap_of_words}, with_none)

    def best(self, name: str, text: str, right: Sequence[str]) -> float:
        """What an answer is worth, by the right one that it is nearest to.

        Args:
            name: Of the measure.
            text: The answer, "" for none.
            right: Empty if there is no answer.
        """
        answers = list(map(self.split, right))
        if self.with_none:
            answers = [answer for answer in answers if answer] or [[]]
        found = self.split(text)
        return max(self.measures[name](found, answer) for answer in answers)


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

    They are those of SQuAD 2's script, or of SQuAD's if every question has an answer.

    Args:
        answered: At least one.
        threshold: No answer is given to a question whose doubt is above it; None: each is answered.
        units: "auto" is characters if most letters of the right answers are Chinese or Japanese.

    Returns:
        Metrics by name. The best threshold is found on these very questions: of use on validation data.
    """
    questions = list(answered)
    rules = Rules.of(questions, units)
    given = [threshold is None or question.doubt <= threshold for question in questions]
    has = [bool(question.right) for question in questions]
    scores: dict[str, float] = {}
    for name in rules.measures:
        kept, empty = _of_both(questions, rules, name)
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
    rules = Rules.of(questions, units)
    given = [question.text if threshold is None or question.doubt <= threshold else "" for question in questions]
    return {
        name: [100 * rules.best(name, text, question.right) for text, question in zip(given, questions, strict=True)]
        for name in rules.measures
    }


def best_threshold(answered: Iterable[Answered], units: Units = "auto") -> float | None:
    """The doubt up to which answers are to be given for the highest F1; None if every question has an answer.

    Of equally good ones it is the lowest, as in SQuAD 2's script.
    """
    questions = list(answered)
    if all(question.right for question in questions):
        return None
    kept, empty = _of_both(questions, Rules.of(questions, units), "f1")
    return _best_threshold([question.doubt for question in questions], kept, empty)[1]


def f1_by_threshold(answered: Sequence[Answered], units: Units = "auto") -> tuple[list[float], list[float]]:
    """The mean F1 in percent for each doubt that occurs as the threshold, from the lowest on."""
    kept, empty = _of_both(answered, Rules.of(answered, units), "f1")
    ranked = sorted(range(len(answered)), key=lambda number: answered[number].doubt)
    total, means = sum(empty), dict[float, float]()
    for number in ranked:
        total += kept[number] - empty[number]
        means[answered[number].doubt] = 100 * total / len(answered)  # of equal doubts the last one counts
    return list(means), list(means.values())


def _of_both(answered: Sequence[Answered], rules: Rules, name: str) -> tuple[list[float], list[float]]:
    """By a measure, what each question is worth if it is answered, and if it is not."""
    kept = [rules.best(name, question.text, question.right) for question in answered]
    return kept, [rules.best(name, "", question.right) for question in answered]


def splitter(units: Units, right: Iterable[str]) -> Callable[[str], list[str]]:
    """What cuts an answer into what is compared."""
    if units == "auto":
        letters = Counter(bool(UNSPACED.match(c)) for text in right for c in text if c.isalpha())
        units = "characters" if letters[True] > letters[False] else "words"
    return characters if units == "characters" else words


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
