"""Permutation language modelling: batches that hold the text unchanged, predictions, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ptm_lightning.tasks import PermutationLMData
from tiny_xlnet import first_batch, prepared

from ptm_lightning.data.batch import Batch
from ptm_lightning.data.predict import Text
from ptm_lightning.errors import UserError

CHINESE = "\n\n".join(f"第{i}章。自然语言处理是人工智能的一个方向😀研究文本{i * i}。" for i in range(60))


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("algorithm", ["xlnet", "wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_batches_hold_the_text_unchanged(corpus: Path, tmp_path: Path, layout: str, algorithm: str, language: str):
    """Every token comes once an epoch; special tokens are never targets; rows of any length; one target in six."""
    if language == "chinese":
        corpus = tmp_path / "chinese.txt"
        corpus.write_text(CHINESE, encoding="utf-8")
    _, data = prepared(corpus, tmp_path, layout=layout, tokenizer_algorithm=algorithm)
    special = set(data.hf_tokenizer.all_special_ids)
    counts = np.zeros(len(data.hf_tokenizer), dtype=np.int64)
    targets, lengths = 0, set()
    for batch in data.train_dataloader():
        ids, order = batch["input_ids"], batch["order"]
        assert torch.equal(ids.flatten()[batch["target_index"]], batch["targets"])
        assert torch.equal(torch.nonzero(order.flatten()).squeeze(1), batch["target_index"])
        assert not special & set(batch["targets"].tolist())
        assert batch["most_targets"] == int(order.max())
        for row, real in zip(order, batch["document_ids"] > 0, strict=True):
            assert sorted(row[row > 0].tolist()) == list(range(1, int((row > 0).sum()) + 1))
            assert int((row > 0).sum()) >= 1
            lengths.add(int(real.sum()) % 2)
        targets += len(batch["targets"])
        counts += np.bincount(ids.flatten().numpy(), minlength=len(counts))
    ordinary = np.setdiff1d(np.arange(len(counts)), sorted(special))
    expected = np.bincount(data.corpus.train.tokens, minlength=len(counts))
    np.testing.assert_array_equal(counts[ordinary], expected[ordinary])
    assert targets / expected.sum() == pytest.approx(1 / 6, abs=0.03)
    assert 1 in lengths  # odd ones too


def test_the_frame_is_that_of_the_exported_tokenizer(corpus: Path, tmp_path: Path):
    """XLNet's: the text, <sep>, and <cls> in a segment of its own; padding in front."""
    _, data = prepared(corpus, tmp_path)
    known = data.hf_tokenizer
    batch = first_batch(data)
    for ids, types, real in zip(batch["input_ids"], batch["token_type_ids"], batch["document_ids"] > 0, strict=True):
        assert known.convert_ids_to_tokens(ids[real][-2:].tolist()) == ["<sep>", "<cls>"]
        assert types[real].tolist() == [0] * (int(real.sum()) - 1) + [2]
    coded = known(["a text", "text"], padding=True)
    assert known.convert_ids_to_tokens(coded["input_ids"][1])[-2:] == ["<sep>", "<cls>"]
    assert coded["token_type_ids"][1][-3:] == [0, 0, 2]
    assert coded["attention_mask"][1][0] == 0


def test_in_blocks_cls_opens_a_row(corpus: Path, tmp_path: Path):
    _, data = prepared(corpus, tmp_path, layout="blocks")
    for batch in data.train_dataloader():
        assert (batch["input_ids"][:, 0] == data.hf_tokenizer.cls_token_id).all()
        assert (batch["token_type_ids"][:, 0] == 2).all()
        assert (batch["token_type_ids"][:, 1:] == 0).all()
        assert batch["input_ids"].shape[1] <= 47


def test_predictions_fill_masks_and_see_no_mask(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    texts = ["the <mask> of a is <mask>.", "no, <mask>"]
    rows = [row for rows in task.trainer.predict(task, PermutationLMData(text=texts, batch_size=2)) for row in rows]
    assert [row["text"] for row in rows] == texts
    assert [len(row["guesses"]) for row in rows] == [2, 1]
    assert all("<mask>" not in row["prediction"] for row in rows)


def test_a_guess_does_not_depend_on_the_other_masks(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    task.eval()
    batch = data.predict_batch([Text("0", "the <mask> of a is <mask>.")])
    with torch.inference_mode():
        before = task.logits_at_targets(batch)
        batch["input_ids"].view(-1)[batch["target_index"][1]] = 99
        after = task.logits_at_targets(batch)
    torch.testing.assert_close(before, after, rtol=0, atol=1e-6)


def test_bf16_mixed_trains(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path, {"steps": 3}, precision="bf16-mixed")
    assert all(torch.isfinite(p).all() for p in task.parameters())
    assert float(task.trainer.callback_metrics.get("val/loss", 0.0)) < 7.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layout": "packed"},
            "--data.layout packed: XLNet can't keep documents in one row apart; take rows or blocks",
        ),
        ({"one_in": 1}, "--data.one_in 1: give at least 2"),
        ({"longest_span": 0}, "--data.longest_span 0: give at least 1"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        PermutationLMData(**arguments)


def test_a_network_with_one_stream_is_refused(corpus: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"--model.architecture gpt2: can't predict in any order; give an xlnet"):
        prepared(corpus, tmp_path, {"architecture": "gpt2", "overrides": None}, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # nothing was tokenized


def test_a_tokenizer_without_a_frame_is_refused(corpus: Path, tmp_path: Path):
    from tokenizers.processors import TemplateProcessing

    _, data = prepared(corpus, tmp_path)
    tokenizer = data.hf_tokenizer
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    tokenizer.save_pretrained(tmp_path / "frameless")
    with pytest.raises(UserError, match=r"--data.tokenizer: it frames no text with special tokens"):
        prepared(corpus, tmp_path, tokenizer=str(tmp_path / "frameless"))


def test_predicting_without_a_mask_is_refused(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    with pytest.raises(UserError, match=r"text 0 has no <mask> to fill: 'no mask'"):
        task.trainer.predict(task, PermutationLMData(text=["no mask"]))


def test_findings_name_what_is_wrong(corpus: Path, tmp_path: Path):
    _, data = prepared(corpus, tmp_path)
    pieces = data.plan.chunk(0, 0).microbatch(0)
    batch = data.collator(data.corpus.train, evaluate=False)(pieces)
    assert not any(finding.wrong for finding in data.findings([(pieces, batch)]))
    order = batch["order"].clone()
    order[0, (order[0] == 1).nonzero()] = 2
    ids = batch["input_ids"].clone()
    ids[0, 0] += 1
    sep = int((batch["input_ids"].flatten() == data.hf_tokenizer.sep_token_id).nonzero()[0])
    index = torch.cat([batch["target_index"], torch.tensor([sep])])
    targets = torch.cat([batch["targets"], torch.tensor([data.hf_tokenizer.sep_token_id])])
    broken: Batch = {**batch, "order": order, "input_ids": ids, "target_index": index, "targets": targets}
    wrong = [finding.wrong for finding in data.findings([(pieces, broken)])]
    assert wrong[:2] == ["", ""]
    assert " in " in wrong[2]
    assert wrong[3].startswith("'<sep>' in ")
    assert wrong[5].startswith("steps [2, 2")
