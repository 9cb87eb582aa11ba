from math import log
from pathlib import Path
from typing import Any

import experiments
import numpy as np
import pytest
from lightning.pytorch import Trainer
from ptm_lightning.tasks import CausalLMData, NextSentenceData, ReplacedTokenData, SentenceOrderData, SpanCorruptionData

from ptm_lightning.check import seen_batches
from ptm_lightning.data.module import TextData
from ptm_lightning.data.tokenizer import sentinel_ids


def ready(kind: type[TextData], corpus: Path, **more: Any) -> TextData:
    data = kind(train=[str(corpus)], vocab_size=600, max_length=64, validation_share=0.2, batch_tokens=512, **more)
    data.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False)
    data.setup("fit")
    return data


def test_words_of_pairs_are_those_before_the_noise(corpus: Path) -> None:
    data = ready(NextSentenceData, corpus, mask_rate=0.5)
    pairs = experiments._pairs(data, (batch for _, batch in seen_batches(data)))
    text = corpus.read_text().lower()
    seen = [word for pair in pairs.words for segment in pair for word in segment]
    assert "mask" not in seen
    assert sum(word in text for word in seen) > 0.95 * len(seen)  # decoding tears what a cut or an unknown left over
    assert 0.3 < pairs.negative.mean() < 0.7


@pytest.mark.parametrize(("kind", "term"), [(NextSentenceData, "nsp"), (SentenceOrderData, "sop")])
def test_pairs_stand_beside_word_statistics(kind: type[TextData], term: str, corpus: Path) -> None:
    data = ready(kind, corpus)
    found = dict.fromkeys(("loss", "mlm_loss", "mlm_accuracy", f"{term}_loss", f"{term}_accuracy"), 1.0)
    values = experiments.baselines_of(data, found)
    assert values.keys() == found.keys()
    assert 0.4 < values[f"{term}_accuracy"] <= 1
    assert 0.5 < values[f"{term}_loss"] <= log(2)
    assert values["loss"] == pytest.approx(values["mlm_loss"] + values[f"{term}_loss"])


def test_the_order_of_segments_is_undone_for_training() -> None:
    train = experiments.Pairs([(["a", "b"], ["c"]), (["c"], ["a", "b"])] * 5, np.array([False, True] * 5))
    held_out = experiments.Pairs([(["a"], ["c"]), (["c"], ["b"])], np.array([False, True]))
    assert experiments._naive_bayes(train, held_out) == 1.0


def test_a_next_text_shares_rare_words() -> None:
    same, other = (["the", "cat"], ["the", "cat"]), (["the", "cat"], ["the", "dog"])
    train = experiments.Pairs([same, other, (["the", "cow"], ["the", "cow"]), other], np.array([False, True] * 2))
    assert experiments._overlap(train, experiments.Pairs([other, same], np.array([True, False]))) == 1.0


def test_text_is_told_from_sentinels(corpus: Path) -> None:
    data = ready(SpanCorruptionData, corpus)
    targets = np.concatenate([batch["targets"].numpy() for batch in data.val_dataloader()])
    train = np.concatenate([batch["targets"].numpy() for _, batch in seen_batches(data)])
    counts = np.bincount(train, minlength=data.link.vocabulary) + 1
    text = [t for t in targets.tolist() if t not in {*sentinel_ids(data.hf_tokenizer).tolist(), data.frame.after[-1]}]
    expected = np.mean([-log(counts[token] / counts.sum()) for token in text])
    assert experiments.baselines_of(data, {"loss_text": 1.0}) == pytest.approx({"loss_text": expected})


def test_bits_are_those_of_the_text(corpus: Path) -> None:
    data = ready(CausalLMData, corpus)
    values = experiments.baselines_of(data, {"loss": 1.0, "bits_per_byte": 1.0})
    batches = list(data.val_dataloader())
    nats = values["loss"] * sum(len(batch["targets"]) for batch in batches)
    assert values["bits_per_byte"] == pytest.approx(nats / log(2) / sum(b["bytes"] for b in batches))


def test_replaced_tokens_stand_beside_calling_all_replaced(corpus: Path) -> None:
    data = ready(ReplacedTokenData, corpus)
    found = {"loss": 26.0, "mlm_loss": 6.0, "rtd_loss": 0.4, "replaced": 0.1, "f1": 0.0, "generator_accuracy": 0.1}
    values = experiments.baselines_of(data, found)
    assert values["f1"] == pytest.approx(2 * 0.1 / 1.1)
    assert values["loss"] == pytest.approx(values["mlm_loss"] + 50 * values["rtd_loss"])
    assert 0.1 < values["generator_accuracy"] < 0.3  # the share that is shown, and a little
    hidden = ready(ReplacedTokenData, corpus, mask_share=1.0)
    more = experiments.baselines_of(hidden, found)
    assert values["mlm_loss"] == pytest.approx(0.85 * more["mlm_loss"], rel=0.05)


def test_questions_hide_whole_words(corpus: Path) -> None:
    data = ready(NextSentenceData, corpus)
    ids, place = next(experiments.sentences(data))
    word = data.hf_tokenizer.decode([ids[place]])
    assert word.isalpha()
    assert "[MASK]" in data.hf_tokenizer.decode(experiments.masked(data, ids, place))
    assert experiments.beginning(data, ids, place) == ids[:place]
    changed = experiments.wrong_word(data, ids, place)
    assert [at for at in range(len(ids)) if changed[at] != ids[at]] == [place]
