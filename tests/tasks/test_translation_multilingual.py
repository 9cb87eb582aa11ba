"""Translation on networks of many languages, which mark them as their family does."""

from pathlib import Path
from typing import Any

import pytest
import torch
from answering import write
from lightning.pytorch import Trainer
from multilingual import CODES, KINDS, TEXTS, write_multilingual
from ptm_lightning.tasks import Translation, TranslationData
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, AutoTokenizer
from translating import QUIET, prepared, their_labels

from ptm_lightning.__main__ import main
from ptm_lightning.data.seq2seq import prompts
from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.models.build import load_network


@pytest.mark.parametrize("kind", KINDS)
def test_languages_are_marked_as_the_family_does(tmp_path: Path, kind: str):
    """Both sides, the decoder's input and the loss are those of the family's own tokenizer and network."""
    tokenizer, codes = write_multilingual(kind, tmp_path / "model"), CODES[kind]
    rows = write(tmp_path / "rows.jsonl", [{codes[0]: text, codes[1]: text[::-1]} for text in TEXTS * 5])
    languages = {"source_language": codes[0], "target_language": codes[1]}
    task, data = prepared(rows, {"backbone": str(tmp_path / "model")}, **languages)
    batch: Any = next(iter(data.val_dataloader()))
    if kind == "m2m100":
        marks = tokenizer.convert_tokens_to_ids(["__en__", "__de__", tokenizer.eos_token])
        sides = [[row[codes[i]] for row in batch["rows"]] for i in range(2)]
        plain = [tokenizer(side, add_special_tokens=False)["input_ids"] for side in sides]
        sources, targets = ([[marks[i], *ids, marks[2]] for ids in plain[i]] for i in range(2))
    else:
        tokenizer.src_lang, tokenizer.tgt_lang = codes
        sources = tokenizer([row[codes[0]] for row in batch["rows"]])["input_ids"]
        targets = tokenizer(text_target=[row[codes[1]] for row in batch["rows"]])["input_ids"]
    assert prompts(batch) == sources
    labels = their_labels(batch)
    assert [row[row >= 0].tolist() for row in labels] == targets
    network = task.eval().network
    theirs = network(input_ids=batch["input_ids"], attention_mask=batch["document_ids"], labels=labels)
    term = task.terms(batch)["target_text"]
    torch.testing.assert_close(term.sum / term.count, theirs.loss, rtol=1e-5, atol=1e-6)
    language = tokenizer.convert_tokens_to_ids("__de__" if kind == "m2m100" else codes[1])
    begin = network.generate(torch.tensor([sources[0]]), max_new_tokens=3)[0].tolist()
    assert begin[0 if kind == "mbart" else 1] == language
    if kind != "mbart":
        assert begin[0] == tokenizer.eos_token_id


@pytest.mark.parametrize("kind", KINDS)
def test_the_export_answers_as_the_run_does(tmp_path: Path, kind: str):
    """Alone, in transformers, and as the backbone of predict."""
    write_multilingual(kind, tmp_path / "model")
    codes = CODES[kind]
    rows = write(tmp_path / "rows.jsonl", [{codes[0]: text, codes[1]: text[::-1]} for text in TEXTS * 5])
    data: dict[str, Any] = {"source_language": codes[0], "target_language": codes[1]}
    task, module = prepared(rows, {"backbone": str(tmp_path / "model"), "num_beams": 2}, steps=2, **data)
    task.trainer.save_checkpoint(tmp_path / "step.ckpt")
    folder = export(tmp_path / "step.ckpt", tmp_path / "exported", Translation, settings={})
    network, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = network.generation_config
    assert (said.num_beams, said.max_new_tokens, said.do_sample) == (2, 12, False)
    ours = task.answers(prompts(next(iter(module.val_dataloader()))))
    asked = [row[codes[0]] for row in next(iter(module.val_dataloader()))["rows"]]
    if kind != "m2m100":
        for text, answer in zip(asked, ours, strict=True):
            ids = network.generate(**tokenizer([text], return_tensors="pt"))[0]
            assert tokenizer.decode(ids, skip_special_tokens=True).strip() == answer
    fresh = Translation(backbone=str(folder), num_beams=2, max_new_tokens=12)
    trainer = Trainer(default_root_dir=tmp_path, **QUIET)
    (found,) = trainer.predict(fresh, TranslationData(text=asked, **data))
    assert [row["prediction"] for row in found] == ours


@pytest.mark.parametrize(("family", "pieces"), [("marian", "source.spm"), ("m2m_100", "sentencepiece.bpe.model")])
@pytest.mark.parametrize("flag", ["--init_from", "--model.backbone"])
def test_a_folder_without_a_tokenizer_json_is_refused_with_the_fix(
    here: Path, family: str, pieces: str, flag: str, capfd: pytest.CaptureFixture[str]
):
    """As their published models are; the pieces are read by nothing."""
    CONFIG_MAPPING[family]().save_pretrained(here / "published")
    (here / "published" / "model.safetensors").touch()
    (here / "published" / pieces).write_bytes(b"\x0a\x0b")
    (here / "published" / "vocab.json").write_text('{"</s>": 0, "<unk>": 1, "<pad>": 2, "a": 3}')
    assert main(["fit", "--config=translation", flag, "published", "--run_dir=run"]) == 2
    assert capfd.readouterr().err == (
        f"error: --data.tokenizer: 'published' has the slow tokenizer of Marian or M2M-100 alone ({pieces}, vocab.json)"
        " and needs a tokenizer.json; take a model that has one, such as NLLB or T5, or put one into the folder"
        "\n"
    )
    assert not (here / "run").exists()


def test_a_language_that_the_model_does_not_know_is_refused(tmp_path: Path):
    write_multilingual("mbart", tmp_path / "model")
    rows = write(tmp_path / "rows.jsonl", [{"en": "a", "xx": "b"}] * 20)
    with pytest.raises(
        UserError, match=r"--data.target_language xx: the model doesn't know it; its languages are ar_A"
    ):
        prepared(rows, {"backbone": str(tmp_path / "model")}, target_language="xx")


def test_pretrained_settings_of_generation_do_not_leak(tmp_path: Path):
    """A backbone's own beams and lengths give way to what was asked for; its ids stay."""
    write_multilingual("mbart50", tmp_path / "model")
    network = load_network("AutoModelForSeq2SeqLM", str(tmp_path / "model"))
    network.generation_config.update(num_beams=4, min_length=30, length_penalty=2.0, bad_words_ids=[[1]])
    network.save_pretrained(tmp_path / "model")
    rows = write(tmp_path / "rows.jsonl", [{"en_XX": text, "de_DE": text[::-1]} for text in TEXTS * 5])
    languages = {"source_language": "en_XX", "target_language": "de_DE"}
    task, _ = prepared(rows, {"backbone": str(tmp_path / "model")}, **languages)
    said = task.network.generation_config
    assert (said.num_beams, said.min_length, said.bad_words_ids) == (1, None, [[1]])
