"""Span corruption, against transformers' own loss and the text that it came from."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import SpanCorruption, SpanCorruptionData
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ptm_lightning import testing
from ptm_lightning.data.seq2seq import prompts, target_rows
from ptm_lightning.data.span_corruption import restore, span_counts
from ptm_lightning.data.tokenizer import load_tokenizer, sentinel_ids
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.models.rows import only_rows
from ptm_lightning.testing import check_task

TINY: dict[str, dict[str, Any]] = {
    "t5": {"d_model": 32, "d_kv": 16, "num_heads": 2, "num_layers": 1, "d_ff": 64},
    "bart": {
        "d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    },
}  # fmt: skip
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}  # T5 v1.1: the hidden state isn't scaled
CHINESE = "我们在北京学习语言模型。今天天气很好,他们去公园散步!你喜欢什么书?"
TEXT = {
    "data": {"predict": None, "text": ["the <extra_id_0> sees a <extra_id_1> .", "<extra_id_0> is in the garden"]},
}


UL2: list[dict[str, Any]] = [
    {"mode": "R", "density": 0.15, "mean_span": 3},
    {"mode": "S", "density": 0.25},
    {"mode": "X", "density": 0.5, "mean_span": 8, "weight": 2},
]


def prepared(
    corpus: Path, tmp_path: Path, task: dict[str, Any] | None = None, **data: Any
) -> tuple[SpanCorruption, SpanCorruptionData]:
    arguments = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 600}
    module = SpanCorruptionData(**(arguments | {"validation_share": 0.1} | data))
    options: dict[str, Any] = {"architecture": "t5"} | (task or {})
    options["overrides"] = TINY[options["architecture"]] | options.get("overrides", {})
    model = SpanCorruption(**options)
    trainer = Trainer(
        max_steps=0, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, module)
    return model, module


@pytest.fixture
def chinese(tmp_path: Path) -> Path:
    path = tmp_path / "chinese.txt"
    path.write_text("\n\n".join(CHINESE[i % 30 :] + CHINESE * (1 + i % 4) + str(i) for i in range(60)))
    return path


@pytest.mark.parametrize(
    ("architecture", "overrides"), [("t5", {}), ("t5", GATED), ("bart", {})], ids=["t5", "t5 v1.1", "bart"]
)
def test_loss_logits_and_gradient_equal_transformers(
    corpus: Path, tmp_path: Path, architecture: str, overrides: dict[str, Any]
):
    task, data = prepared(corpus, tmp_path, {"architecture": architecture, "overrides": overrides})
    batch: Any = next(iter(data.train_dataloader()))
    assert batch["padded"]
    network: Any = task.eval().network
    term = task.terms(batch)["spans"]
    (term.sum / term.count).backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    task.zero_grad()

    labels = torch.full_like(batch["decoder_input_ids"], -100).flatten()
    labels[batch["target_index"]] = batch["targets"]
    labels = labels.view_as(batch["decoder_input_ids"])
    theirs = network(input_ids=batch["input_ids"], attention_mask=(batch["document_ids"] > 0).long(), labels=labels)
    theirs.loss.backward()
    torch.testing.assert_close(term.sum / term.count, theirs.loss, rtol=1e-5, atol=1e-6)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)
    with torch.no_grad(), only_rows(network, batch["target_index"]):
        some = network(**task.inputs(batch)).logits[0]
    torch.testing.assert_close(some, theirs.logits.flatten(0, 1)[batch["target_index"]], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows", "blocks"])
@pytest.mark.parametrize("algorithm", ["wordpiece", "bpe", "unigram"])
@pytest.mark.parametrize("language", ["english", "chinese"])
def test_inputs_and_targets_rebuild_the_text(
    corpus: Path, chinese: Path, tmp_path: Path, layout: str, algorithm: str, language: str
):
    source = corpus if language == "english" else chinese
    _, data = prepared(source, tmp_path, layout=layout, tokenizer_algorithm=algorithm)
    before, after = map(list, data.frame)
    seen: Counter[int] = Counter()
    tokens, longest, padded = 0, 0, 0
    sentinels = data.sentinels.tolist()
    for batch in data.train_dataloader():
        for inputs, targets in zip(prompts(batch), target_rows(batch), strict=True):
            used = [token for token in inputs if token in set(sentinels)]
            assert used == [token for token in targets if token in set(sentinels)] == sentinels[: len(used)]
            text = restore(inputs, targets, sentinels)
            assert (text[: len(before)], text[len(text) - len(after) :]) == (before, after)
            seen.update(text[len(before) : len(text) - len(after)])
        assert batch["targets"][batch["decoder_lengths"].cumsum(0) - 1].eq(after[-1]).all()
        tokens += batch["counts"]["tokens"]
        longest = max(longest, batch["input_ids"].shape[1])
        padded += int((batch["document_ids"] == 0).any(dim=1).sum())
    assert seen == Counter(data.corpus.train.tokens.tolist())
    assert tokens == data.plan.chunk(0, 0).tokens.sum()
    assert longest <= data.max_length
    if layout == "blocks":
        assert longest == data.max_length
        assert padded <= 1  # the last row of the stream


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


def test_decoder_reads_the_targets_one_place_later(corpus: Path, tmp_path: Path):
    for architecture in ("t5", "bart"):
        task, data = prepared(corpus, tmp_path, {"architecture": architecture})
        batch: Any = next(iter(data.train_dataloader()))
        read = task.inputs(batch)["decoder_input_ids"]
        start = task.network.config.decoder_start_token_id
        assert start == (data.hf_tokenizer.pad_token_id if architecture == "t5" else data.frame.after[-1])
        for row, targets in zip(read.tolist(), target_rows(batch), strict=True):
            assert row[: len(targets) + 1] == [start, *targets]


def test_no_target_sees_itself_or_what_follows(corpus: Path, tmp_path: Path):
    """Changing a target and all after it changes no logits up to it."""
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.train_dataloader()))
    task.eval()
    with torch.no_grad():
        before = task.logits_at_targets(batch)
        batch["decoder_input_ids"][:, 4:] = 7
        after = task.logits_at_targets(batch)
    column = batch["target_index"] % batch["decoder_input_ids"].shape[1]
    torch.testing.assert_close(before[column < 4], after[column < 4], rtol=0, atol=1e-6)
    assert not torch.allclose(before[column >= 4], after[column >= 4])


def test_metrics_equal_a_loop(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    right = batch["targets"].clone()
    right[::7] = 5  # guesses, some of them wrong
    logits = torch.nn.functional.one_hot(right, task.link.vocabulary).float()
    task.eval().logits_at_targets = lambda _: logits
    terms = task.terms(batch)
    sentinels = set(data.sentinels.tolist())
    guessed = [row.tolist() for row in right.split(batch["decoder_lengths"].tolist())]
    exact = spans = hits = words = 0
    for row, guess in zip(target_rows(batch), guessed, strict=True):
        good: list[bool] = []
        for token, said in zip(row, guess[:-1], strict=True):
            if token in sentinels:
                good.append(True)
                continue
            hits, words = hits + (token == said), words + 1
            good[-1] &= token == said
        exact, spans = exact + sum(good), spans + len(good)
    assert (int(terms["exact_spans"].sum), int(terms["exact_spans"].count)) == (exact, spans)
    assert (int(terms["accuracy_text"].sum), int(terms["accuracy_text"].count)) == (hits, words)
    assert int(terms["accuracy"].sum) == int((right == batch["targets"]).sum())
    assert len(batch["fresh"]) == len(batch["targets"])
    marks = torch.isin(batch["targets"], torch.tensor(data.sentinels))
    assert not (batch["fresh"] & marks).any()


def test_examples_show_both_sides(corpus: Path, tmp_path: Path):
    task, data = prepared(corpus, tmp_path)
    batch: Any = next(iter(data.val_dataloader()))
    examples = task.examples(batch)
    assert len(examples) == len(batch["input_ids"])
    assert list(examples[0]) == ["input", "target", "generated"]
    assert "<extra_id_0>" in examples[0]["input"]
    assert examples[0]["target"].startswith("<extra_id_0>")
    assert data.show_row(batch, 0).splitlines()[1].startswith("targets: <extra_id_0> ")


def test_predictions_fill_sentinels_and_the_export_generates(corpus: Path, tmp_path: Path):
    task, _ = prepared(corpus, tmp_path)
    sentinel, other, end = *task._sentinels[:2], task.network.config.eos_token_id
    word = task.tokenizer().convert_tokens_to_ids("the")
    task.answers = lambda batch: [[sentinel, word, word, other, word]] * len(batch["texts"])
    texts = ["a <extra_id_0> b <extra_id_1>, and <extra_id_2>", "<extra_id_1> b"]
    rows = [row for part in task.trainer.predict(task, SpanCorruptionData(text=texts)) for row in part]
    assert [row["prediction"] for row in rows] == ["a the the b the, and <extra_id_2>", "the b"]
    assert rows[0]["spans"] == {"<extra_id_0>": "the the", "<extra_id_1>": "the"}
    del task.answers
    task.trainer.save_checkpoint(tmp_path / "step.ckpt")
    folder = export(tmp_path / "step.ckpt", tmp_path / "model", SpanCorruption, settings={})
    loaded, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    coded = tokenizer("a <extra_id_0> b", return_tensors="pt").input_ids
    assert coded[0, -1] == end == loaded.generation_config.eos_token_id
    batch = {"texts": [("0", "")], "input_ids": coded, "document_ids": torch.ones_like(coded)}
    answer = loaded.generate(coded, max_new_tokens=task.link.max_length)[0].tolist()
    assert answer[0] == loaded.generation_config.decoder_start_token_id
    ours = task.answers(batch)[0]
    assert answer[1 : 1 + len(ours)] == ours


@pytest.mark.parametrize("clause", ["export_is_equal", "resume_is_equal"])
def test_gated_networks_keep_the_contract(clause: str):
    arguments = {"overrides": TINY["t5"] | GATED}
    check_task(SpanCorruption, arguments=arguments, clauses=[getattr(testing, clause)], **TEXT)


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
