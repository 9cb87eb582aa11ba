"""Question answering against transformers' own loss and a naive search over windows."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from asking import fitted, predicted
from transformers import (
    BertForQuestionAnswering,
)

from ptm_lightning.metrics.question_answering import Answered, answer_scores, best_threshold
from ptm_lightning.testing_texts import example


def alone(batch: Any, row: int) -> dict[str, torch.Tensor]:
    """The network's arguments for a row without its padding."""
    real = batch["document_ids"][row] > 0
    return {name: batch[name][row : row + 1, real] for name in ("input_ids", "token_type_ids")}


def test_loss_and_gradient_equal_transformers(tmp_path: Path) -> None:
    task, data = fitted(tmp_path)
    assert type(task.network) is BertForQuestionAnswering
    batch = next(batch for batch in data.train_dataloader() if batch["padded"])
    assert (batch["spans"] == batch["nulls"][:, None]).any()
    assert (batch["spans"] != batch["nulls"][:, None]).any()
    loss = task.eval().terms(batch)["span"].sum / task.terms(batch)["span"].count
    loss.backward()
    ours = {name: p.grad.clone() for name, p in task.network.named_parameters() if p.grad is not None}
    task.zero_grad()
    rows = range(len(batch["input_ids"]))
    positions = [dict(zip(("start_positions", "end_positions"), pair.split(1), strict=True)) for pair in batch["spans"]]
    theirs = torch.stack([task.network(**alone(batch, row), **positions[row]).loss for row in rows]).mean()
    theirs.backward()
    torch.testing.assert_close(loss, theirs, rtol=1e-5, atol=1e-6)
    for name, parameter in task.network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_loss_of_a_batch_without_padding_is_transformers_own(tmp_path: Path) -> None:
    task, data = fitted(tmp_path, batch_size=1)
    for batch, _ in zip(data.train_dataloader(), range(5), strict=False):
        start, end = batch["spans"].unbind(dim=1)
        inputs = {name: batch[name] for name in ("input_ids", "token_type_ids")}
        theirs = task.eval().network(**inputs, start_positions=start, end_positions=end).loss
        torch.testing.assert_close(task.terms(batch)["span"].sum, theirs)


def searched(task: Any, batch: Any, longest: int) -> dict[int, tuple[float, float, tuple[int, int]]]:
    """By example: the score of no answer, and the best span of all windows and its score, found one by one."""
    found: dict[int, tuple[float, float, tuple[int, int]]] = {}
    for row, example_number in enumerate(batch["examples"].tolist()):
        with torch.no_grad():
            output = task.network(**alone(batch, row))
        start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
        characters = batch["characters"][row].tolist()
        context = [place for place, (begin, _) in enumerate(characters) if begin >= 0]
        spans = [
            (start[first] + end[last], (characters[first][0], characters[last][1]))
            for first in context
            for last in context
            if first <= last < first + longest
        ]
        null, best, span = found.get(example_number, (math.inf, -math.inf, (0, 0)))
        score, place = max(spans)
        found[example_number] = (
            min(null, start[0] + end[0]),
            *((score, place) if score > best else (best, span)),
        )
    return found


PLACES = ("input_ids", "token_type_ids", "document_ids", "characters")


def padded(column: torch.Tensor, width: int) -> torch.Tensor:
    wider = torch.full((len(column), width, *column.shape[2:]), -1 if column.ndim == 3 else 0)
    wider[:, : column.shape[1]] = column
    return wider


def test_scores_are_those_of_the_best_over_windows(tmp_path: Path) -> None:
    rows = [example(number) for number in range(80)]
    for row in rows:
        if row["answers"]["text"]:
            row["answers"] = {name: values * 2 for name, values in row["answers"].items()}
    task, data = fitted(tmp_path, rows, {"max_answer_tokens": 5}, max_steps=20)
    batches = list(data.val_dataloader())
    records, windows = [], 0
    for batch in batches:
        windows += len(batch["input_ids"])
        with torch.no_grad():
            records += task.eval().evaluate(batch)[1]
    by_example: dict[int, Any] = {}
    width = max(batch["input_ids"].shape[1] for batch in batches)
    whole = {name: torch.cat([padded(batch[name], width) for batch in batches]) for name in PLACES}
    whole["examples"] = torch.cat([batch["examples"] for batch in batches])
    every_row = [row for batch in batches for row in batch["rows"]]
    for number, row in zip(whole["examples"].tolist(), every_row, strict=True):
        by_example[number] = row
    answered = [
        Answered(by_example[n]["answers"]["text"], by_example[n]["context"][slice(*span)], null - best)
        for n, (null, best, span) in sorted(searched(task, whole, 5).items())
    ]
    assert windows > len(by_example)
    assert sum(not one.right for one in answered) > 1
    records.sort(key=lambda record: record["example"])
    threshold = best_threshold(answered)
    assert task.score(records) == pytest.approx(answer_scores(answered, threshold), rel=1e-4)
    assert task.threshold == pytest.approx(threshold, abs=1e-4)


def test_predictions_are_stretches_of_the_context(tmp_path: Path) -> None:
    task, _ = fitted(tmp_path, None, {"no_answer_threshold": 1e9, "n_best": 7}, max_steps=2)
    words = " ".join(f"w{number}" for number in range(3000))
    rows = [example(number) | {"id": f"asked {number}"} for number in range(9)]
    rows[3]["context"] = f"  Naïve\u3000 北京大学 {words}"
    rows[5]["context"] = "\x07"  # no token
    found = predicted(task, tmp_path, rows)
    assert [one["id"] for one in found] == [row["id"] for row in rows]
    for one, row in zip(found, rows, strict=True):
        assert one["question"] == row["question"]
        assert one["answers"] == sorted(one["answers"], key=lambda answer: -answer["score"])
        for answer in one["answers"]:
            assert answer["text"] == row["context"][answer["start"] : answer["end"]] == answer["text"].strip()
        assert len({(answer["start"], answer["end"]) for answer in one["answers"]}) == len(one["answers"]) <= 7
        chances = sum(answer["score"] for answer in one["answers"])
        assert one["prediction"] == (one["answers"][0]["text"] if one["answers"] else "")
        assert 0 < chances < 1 or not one["answers"]
        assert json.loads(json.dumps(one, allow_nan=False)) == one
    assert found[5] | {"score": 1.0, "doubt": None} == found[5]
    alone_found = [predicted(task, tmp_path, [row])[0] for row in rows[2:5]]
    for one, other in zip(alone_found, found[2:5], strict=True):
        assert one["prediction"] == other["prediction"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-3)
