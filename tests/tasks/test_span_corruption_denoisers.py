"""Span corruption by several denoisers, the sentinels of a tokenizer, and what is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corrupting import TEXT, prepared
from ptm_lightning.tasks import SpanCorruption, SpanCorruptionData

from ptm_lightning import testing
from ptm_lightning.data.seq2seq import prompts, target_rows
from ptm_lightning.data.span_corruption import restore, span_counts
from ptm_lightning.data.tokenizer import load_tokenizer, sentinel_ids
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.testing import check_task

UL2: list[dict[str, Any]] = [
    {"mode": "R", "density": 0.15, "mean_span": 3},
    {"mode": "S", "density": 0.25},
    {"mode": "X", "density": 0.5, "mean_span": 8, "weight": 2},
]


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_denoisers_are_mixed_by_weight_and_named(corpus: Path, tmp_path: Path, algorithm: str):
    """Each row begins with the mode of its noise, of which it has the exact numbers; the text can be rebuilt."""
    _, data = prepared(corpus, tmp_path, denoisers=UL2, layout="blocks", tokenizer_algorithm=algorithm)
    kinds = {int(data.hf_tokenizer.convert_tokens_to_ids(str(kind.token))): kind for kind in data.kinds}
    at, sentinels, seen = len(data.frame.before), data.sentinels.tolist(), Counter[int]()
    drawn: Counter[Any] = Counter()
    for batch in data.train_dataloader():
        assert batch["input_ids"].shape[1] <= data.max_length
        assert batch["decoder_input_ids"].shape[1] <= data.max_length
        for inputs, targets in zip(prompts(batch), target_rows(batch), strict=True):
            kind = kinds[inputs.pop(at)]
            text = restore(inputs, targets, sentinels)[at : -len(data.frame.after)]
            spans = sum(token in set(sentinels) for token in targets)
            noise, wanted = span_counts(np.array([len(text)]), kind.density, kind.mean_span)
            assert (len(targets) - spans, spans) == (noise[0], wanted[0])
            assert kind.mode != "S" or len(text) < 2 or inputs[-len(data.frame.after) - 1] == sentinels[0]
            seen.update(text)
            drawn[kind.mode] += 1
    assert seen == Counter(data.corpus.train.tokens.tolist())
    share = np.array([drawn[kind.mode] for kind in data.kinds]) / drawn.total()
    np.testing.assert_allclose(share, [0.25, 0.25, 0.5], atol=0.12)


@pytest.mark.parametrize(
    "clause", ["noise_ignores_the_batch", "workers_give_equal_batches", "resume_is_equal", "batches_keep_the_schema"]
)
def test_mixed_denoisers_keep_the_contract(clause: str):
    arguments = TEXT["data"] | {"denoisers": UL2}
    check_task(SpanCorruption, data=arguments, clauses=[getattr(testing, clause)])


@pytest.mark.parametrize(
    ("denoisers", "message"),
    [
        ([], "give at least one"),
        ([{"mode": "R"}, {}], "a mode to all of them or to none"),
        ([{"rate": 0.5}], "there is no 'rate'"),
        ([{"density": 2.0}], "denoisers: density 2.0: give a share"),
        ([{"mean_span": 0}], "denoisers: mean_span 0: give at least 1"),
        ([{"weight": 0}], "weight 0: give a number above 0"),
    ],
)
def test_wrong_denoisers_are_refused(denoisers: list[dict[str, Any]], message: str):
    with pytest.raises(UserError, match=message):
        SpanCorruptionData(denoisers=denoisers)
    with pytest.raises(UserError, match="say density and mean_span in it"):
        SpanCorruptionData(denoisers=UL2, noise_density=0.3)


def test_a_tokenizer_without_the_modes_is_refused(corpus: Path, tmp_path: Path):
    names = [f"<extra_id_{i}>" for i in range(100)]
    train_tokenizer(["the cat sat on the mat"] * 9, "wordpiece", 60, 64, names).save_pretrained(tmp_path / "t5")
    with pytest.raises(UserError, match=r"the tokenizer has no token \[R\]; take --data.tokenizer train"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "t5"), denoisers=UL2)


@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
def test_sentinels_of_a_trained_tokenizer(algorithm: Any, tmp_path: Path):
    names = [f"<extra_id_{i}>" for i in range(12)]
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 9, algorithm, 300, 64, names)
    ids = sentinel_ids(tokenizer)
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == names
    coded = tokenizer("the <extra_id_11> sat", add_special_tokens=False).input_ids
    assert coded.count(ids[11]) == 1
    text = tokenizer("the", add_special_tokens=False).input_ids
    assert coded[: len(text) + 1] == [*text, ids[11]]  # no token for the space before it
    tokenizer.save_pretrained(tmp_path)
    assert (sentinel_ids(load_tokenizer(str(tmp_path))) == ids).all()


def test_sentinels_are_used_by_their_numbers_not_their_ids(tmp_path: Path):
    """T5's own tokenizer gives <extra_id_0> the highest id."""
    names = [f"<extra_id_{i}>" for i in reversed(range(12))]
    tokenizer = train_tokenizer(["the cat sat on the mat"] * 9, "wordpiece", 60, 64, names)
    assert (np.diff(sentinel_ids(tokenizer)) == -1).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layout": "packed"}, "--data.layout packed: an encoder-decoder can't isolate packed documents"),
        ({"noise_density": 1.0}, "--data.noise_density 1.0: give a share between 0 and 1"),
        ({"mean_span": 0.5}, "--data.mean_span 0.5: give at least 1 token"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        SpanCorruptionData(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"max_length": 4, "denoisers": [{"mode": "R", "density": 0.15, "mean_span": 3}]},
            "--data.max_length 4: leaves no text to corrupt",
        ),
        ({"max_length": 512, "noise_density": 0.5, "mean_span": 2.0}, "it has 100 sentinels .* need 170"),
    ],
)
def test_rows_that_cannot_be_corrupted_are_refused(
    corpus: Path, tmp_path: Path, arguments: dict[str, Any], message: str
):
    with pytest.raises(UserError, match=message):
        prepared(corpus, tmp_path, **arguments)


def test_a_tokenizer_without_sentinels_or_end_is_refused(corpus: Path, tmp_path: Path):
    bare = train_tokenizer(["the cat sat on the mat"] * 9, "wordpiece", 60, 64)
    bare.save_pretrained(tmp_path / "bare")
    with pytest.raises(UserError, match=r"it has 0 sentinels .* take --data.tokenizer train or another"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "bare"))
    bare.sep_token = None
    bare.save_pretrained(tmp_path / "endless")
    with pytest.raises(UserError, match="has no eos"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "endless"))


def test_predicting_without_a_sentinel_is_refused(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    with pytest.raises(UserError, match="text 0 has no <extra_id_0> to fill: 'no gap'"):
        task.trainer.predict(task, SpanCorruptionData(text=["no gap"]))
