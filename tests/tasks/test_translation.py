"""Translation, against transformers' own loss; pretrained networks, pairs in files and their scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import write
from lightning.pytorch import Trainer
from ptm_lightning.tasks import Translation, TranslationData
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from translating import QUIET, prepared, their_labels

from ptm_lightning.data.seq2seq import prompts
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.metrics.translation import translation_scores
from ptm_lightning.testing_texts import document


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return write(tmp_path / "pairs.jsonl", [{"en": document(i), "de": document(i).upper()} for i in range(60)])


@pytest.mark.parametrize("architecture", ["bart", "t5", "marian", "mbart", "m2m_100", "pegasus"])
def test_loss_and_gradient_equal_transformers(pairs: Path, architecture: str):
    task, data = prepared(pairs, {"architecture": architecture})
    batch: Any = next(iter(data.train_dataloader()))
    assert batch["padded"]
    network = task.eval().network
    term = task.terms(batch)["target_text"]
    (term.sum / term.count).backward()
    ours = {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}
    task.zero_grad()
    mask = (batch["document_ids"] > 0).long()
    theirs = network(input_ids=batch["input_ids"], attention_mask=mask, labels=their_labels(batch))
    theirs.loss.backward()
    torch.testing.assert_close(term.sum / term.count, theirs.loss, rtol=1e-5, atol=1e-6)
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_label_smoothing_is_that_of_transformers_and_only_in_training(pairs: Path):
    from transformers.trainer_pt_utils import LabelSmoother

    task, data = prepared(pairs, {"label_smoothing": 0.2})
    plain, _ = prepared(pairs)
    batch: Any = next(iter(data.train_dataloader()))
    task.network.eval(), plain.eval()
    labels = their_labels(batch)
    logits = task.network(**task.inputs(batch)).logits
    term = task.terms(batch)["target_text"]
    torch.testing.assert_close(term.sum / term.count, LabelSmoother(0.2)({"logits": logits}, labels))
    task.eval()
    torch.testing.assert_close(task.terms(batch)["target_text"].sum, plain.terms(batch)["target_text"].sum)
    assert "train/perplexity" not in task.finish_metrics({"train/loss": 1.0}, "train")
    assert task.finish_metrics({"val/loss": 0.0}, "val")["val/perplexity"] == 1


def test_a_pretrained_t5_gets_its_own_wording(pairs: Path, tmp_path: Path):
    task, data = prepared(pairs, {"architecture": "t5"}, prefix="translate English to German: ")
    first = data.hf_tokenizer.decode(prompts(next(iter(data.train_dataloader())))[0], skip_special_tokens=True)
    assert first.startswith("translate English to German: ")
    task.trainer.save_checkpoint(tmp_path / "step.ckpt")
    folder = export(tmp_path / "step.ckpt", tmp_path / "model", Translation, settings={})
    params = json.loads((folder / "config.json").read_text())["task_specific_params"]
    assert params == {"translation_en_to_de": {"prefix": "translate English to German: "}}
    for given, used in ((None, "translate English to German: "), ("", ""), ("say: ", "say: ")):
        _, again = prepared(pairs, {"backbone": str(folder)}, prefix=given)
        assert again.used_prefix() == used
    loaded = Translation.load_from_checkpoint(tmp_path / "step.ckpt", weights_only=True)
    (found,) = Trainer(**QUIET).predict(loaded, TranslationData(text=["the cat"]))
    asked = data.predict_batch([*TranslationData(text=["the cat"]).predict_inputs()])
    assert found[0]["prediction"] == task.answers(prompts(asked))[0]


def test_a_pretrained_t5_without_the_pairs_wording_is_said(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    task, data = prepared(pairs, {"architecture": "t5"})
    task.network.config.task_specific_params = {"translation_en_to_de": {"prefix": "translate English to German: "}}
    task.network.save_pretrained(tmp_path / "model")
    data.hf_tokenizer.save_pretrained(tmp_path / "model")
    rows = write(tmp_path / "es.jsonl", [{"en": document(i), "es": document(i).upper()} for i in range(60)])
    caplog.clear()
    for prefix, count in ((None, 1), ("to Spanish: ", 0)):
        _, again = prepared(rows, {"backbone": str(tmp_path / "model")}, target_language="es", prefix=prefix)
        assert again.used_prefix() == (prefix or "")
        message = "has a prefix for translation_en_to_de, but none for translation_en_to_es; none is put before"
        assert caplog.text.count(message) == count
        caplog.clear()


def test_a_decoder_begins_as_its_config_says(pairs: Path, tmp_path: Path):
    task, data = prepared(pairs, {"architecture": "t5"})
    begin = data.hf_tokenizer.convert_tokens_to_ids("cat") or 7
    task.network.config.decoder_start_token_id = begin
    task.network.generation_config.decoder_start_token_id = None
    task.network.save_pretrained(tmp_path / "model")
    data.hf_tokenizer.save_pretrained(tmp_path / "model")
    again, _ = prepared(pairs, {"backbone": str(tmp_path / "model")})
    assert again.network.config.decoder_start_token_id == begin
    assert again.network.generation_config.decoder_start_token_id == begin


def test_a_pretrained_network_is_evaluated_on_rows_alone(pairs: Path, tmp_path: Path):
    task, data = prepared(pairs, steps=1)
    task.network.save_pretrained(tmp_path / "model")
    data.hf_tokenizer.save_pretrained(tmp_path / "model")
    rows = write(tmp_path / "fr.jsonl", [{"fr": document(i), "es": document(i).upper()} for i in range(9)])
    alone = Translation(backbone=str(tmp_path / "model"), max_new_tokens=12)
    source = TranslationData(test=[str(rows)], source_language="fr", target_language="es", max_length=128)
    (scores,) = Trainer(**QUIET).test(alone, source, verbose=False)
    assert {"test/bleu", "test/chrf", "test/ter_copy"} <= scores.keys()


def test_translations_of_one_text_stay_together(tmp_path: Path):
    rows = [{"en": document(i % 20), "de": document(i).upper()} for i in range(100)]
    _, data = prepared(write(tmp_path / "rows.jsonl", rows))
    splits = (data.corpus.train, data.corpus.validation, data.corpus.test)
    sources = [{row["en"] for row in store.rows(range(len(store)))} for store in splits]
    assert sum(map(len, sources)) == len(set.union(*sources))


def test_incomplete_rows_are_said_at_every_stage(pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    task, data = prepared(pairs)
    rows = write(tmp_path / "test.jsonl", [{"en": "a cat", "de": "" if i % 3 else "EINE"} for i in range(9)])
    caplog.clear()
    task.trainer.test(task, TranslationData(train=data.train, test=[str(rows)], max_length=128), verbose=False)
    assert "--data.test: 6 rows are left out, for en or de is empty in them" in caplog.text


def test_both_shapes_of_pairs_and_named_columns_give_the_same_rows(pairs: Path, tmp_path: Path):
    flat = [json.loads(line) for line in pairs.read_text().splitlines()]
    nested = write(tmp_path / "nested.jsonl", [{"id": i, "translation": row} for i, row in enumerate(flat)])
    other = write(tmp_path / "other.jsonl", [{"source": row["en"], "goal": row["de"]} for row in flat])
    stores = [
        data.corpus.train
        for _, data in (
            prepared(pairs),
            prepared(nested),
            prepared(other, columns={"en": "source", "de": "goal"}),
        )
    ]
    assert all((store.tokens == stores[0].tokens).all() for store in stores)
    asked = write(tmp_path / "asked.jsonl", [{"source": "the cat"}])
    found = TranslationData(predict=[str(asked)], columns={"en": "source", "de": "goal"}).predict_inputs()
    assert [text.text for text in found] == ["the cat"]
    with pytest.raises(UserError, match=r"no column 'de'; the columns are source, goal.*--data.columns.de=goal"):
        prepared(other, columns={"en": "source"})
    for source, target in (("en", "de"), ("de", "en")):
        _, data = prepared(pairs, source_language=source, target_language=target)
        row = next(data.corpus.train.rows([0]))
        ids = data.corpus.train.tokens[: data.corpus.train.field_offsets[1]]
        assert data.hf_tokenizer.decode(ids).strip() == row[source]


def test_the_tokenizer_learns_from_both_sides(tmp_path: Path):
    rows = [{"en": "aaaa bbbb" * (1 + i % 3), "de": "zzzz yyyy" * (1 + i % 3) + str(i)} for i in range(40)]
    _, data = prepared(write(tmp_path / "rows.jsonl", rows))
    assert {"aaaa", "zzzz"} <= {token.strip("Ġ") for token in data.hf_tokenizer.get_vocab()}


def test_scores_are_those_of_all_answers(pairs: Path, caplog: pytest.LogCaptureFixture):
    task, data = prepared(pairs, steps=3, test_share=0.3)
    (metrics,) = task.trainer.test(task, data, verbose=False)
    rows = list(data.corpus.test.rows(range(len(data.corpus.test))))
    inputs = [ids for batch in data.test_dataloader() for ids in prompts(batch)]
    order = [number for batch in data.test_dataloader() for number in batch["examples"].tolist()]
    answers = [text for _, text in sorted(zip(order, task.answers(inputs), strict=True))]
    english, german = ([row[name] for row in rows] for name in ("en", "de"))
    for name, value in translation_scores(answers, german, "de").items():
        assert metrics[f"test/{name}"] == pytest.approx(value, abs=1e-4)
    for name, value in translation_scores(english, german, "de").items():
        assert metrics[f"test/{name}_copy"] == pytest.approx(value, abs=1e-4)
    assert "signature of bleu: nrefs:1|case:mixed|eff:no|tok:13a|" in caplog.text
    assert task.link.provenance["signature of chrf"].startswith("nrefs:1|")


@pytest.mark.parametrize("code", ["th", "target"])
def test_a_target_without_spaces_is_said(tmp_path: Path, code: str, caplog: pytest.LogCaptureFixture):
    rows = [{"en": document(i), code: "วันนี้เราไปเดินเล่น" * (i % 3 + 1)} for i in range(60)]
    prepared(write(tmp_path / "pairs.jsonl", rows), target_language=code)
    misnamed = "--data.target_language target: its words have no spaces between them; BLEU and TER"
    assert ("bleu: cuts th into characters (tok:char)" in caplog.text) == (code == "th")
    assert (misnamed in caplog.text) == (code == "target")


def test_a_source_and_target_of_one_language_are_refused():
    with pytest.raises(UserError, match=r"--data.target_language de: is the source's too; give another"):
        TranslationData(source_language="de")


def test_a_causal_network_is_refused_with_those_that_fit(pairs: Path):
    with pytest.raises(UserError, match=r"--model.architecture gpt2: .*no ModelForSeq2SeqLM of gpt2; take t5, bart, "):
        prepared(pairs, {"architecture": "gpt2"})


def test_a_tokenizer_without_padding_or_end_is_refused(pairs: Path, tmp_path: Path):
    _, data = prepared(pairs)
    for role, message in (("pad_token", "it has no padding token"), ("eos_token", "it has no eos")):
        tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(_saved(data.hf_tokenizer, tmp_path / role))
        setattr(tokenizer, role, None)
        tokenizer.sep_token = None
        with pytest.raises(UserError, match=message):
            prepared(pairs, tokenizer=_saved(tokenizer, tmp_path / f"no_{role}"))


def _saved(tokenizer: Any, folder: Path) -> str:
    tokenizer.save_pretrained(folder)
    return str(folder)
