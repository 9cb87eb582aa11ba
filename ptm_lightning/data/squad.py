"""The nested files of SQuAD and SQuAD 2, articles of paragraphs of questions, as flat rows.

References:
    - SQuAD, 2016, https://arxiv.org/abs/1606.05250
    - SQuAD 2, 2018, https://arxiv.org/abs/1806.03822
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ptm_lightning.errors import UserError

COLUMNS = ("text", "answer_start")
"""Of an answer."""


def unnested(placed: Iterable[tuple[Any, dict[str, Any]]], where: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Rows as they are, but articles of SQuAD as a row for each question.

    Args:
        placed: (place, row).
        where: The beginning of error messages.

    Returns:
        (place, row); the rows of an article have id, title, context, question and answers, the last with lists of text
        and answer_start, empty where the question is impossible. A question without `answers` has none here either.
    """
    for place, row in placed:
        if isinstance(row.get("paragraphs"), list):
            yield from _questions(row, f"{place}", where)
        else:
            yield place, row


def _questions(article: Mapping[str, Any], place: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, paragraph in enumerate(article["paragraphs"], 1):
        here = f"{place} paragraph {number}"
        try:
            for nth, question in enumerate(paragraph["qas"], 1):
                here = f"{place} paragraph {number} question {nth}"
                yield here, _row(question, paragraph["context"], article.get("title", ""))
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{where}:{here}: broken SQuAD data ({error!r}); repair the file") from error


def _row(question: Mapping[str, Any], context: Any, title: Any) -> dict[str, Any]:
    row = {"id": question["id"], "title": title, "context": context, "question": question["question"]}
    if question.get("is_impossible"):
        return row | {"answers": {"text": [], "answer_start": []}}
    if "answers" not in question:
        return row
    return row | {"answers": {name: [answer[name] for answer in question["answers"]] for name in COLUMNS}}
