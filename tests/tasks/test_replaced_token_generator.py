"""The generator of replaced token detection: its shape and samples, its export, and what it is begun from."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import ReplacedTokenData, ReplacedTokenDetection
from ptm_lightning.tasks.replaced_token import generator_config, sample_tokens
from tiny_electra import TINY, prepared
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    BertConfig,
    BertForPreTraining,
    ElectraConfig,
    ElectraForPreTraining,
)

from ptm_lightning.errors import UserError
from ptm_lightning.export import export
from ptm_lightning.optim import parameter_groups
from ptm_lightning.origin import start_from


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_embeddings_are_one_object_and_count_once(corpus: Path, tmp_path: Path, share: float):
    task, _ = prepared(corpus, tmp_path, {"generator_share": share, "ema": 0.5}, max_steps=2)
    shared = task.network.electra.embeddings
    assert task.generator.electra.embeddings is shared
    assert task.generator.generator_lm_head.weight is shared.word_embeddings.weight
    counted = [id(p) for group in parameter_groups(task, 0.01) for p in group["params"]]
    assert len(counted) == len(set(counted))
    both = {id(p) for network in (task.network, task.generator) for p in network.parameters()}
    assert set(counted) == both
    assert {name.rpartition(".")[0] for name, p in task.named_parameters() if p is shared.word_embeddings.weight} == {
        "network.electra.embeddings.word_embeddings"
    }
    state = task.state_dict()
    for name, _ in shared.named_parameters():
        pair = [state[f"{network}.electra.embeddings.{name}"] for network in ("network", "generator")]
        assert pair[0].data_ptr() == pair[1].data_ptr()
    ours, theirs = (n.electra.encoder.layer[0].output.dense.weight for n in (task.network, task.generator))
    assert ours.shape != theirs.shape or not torch.allclose(ours, theirs)


@pytest.mark.parametrize(
    ("hidden", "share", "expected"),
    [(768, 1 / 3, (256, 4, 1024)), (256, 0.25, (64, 1, 256)), (1024, 0.25, (256, 4, 1024)), (128, 0.25, (32, 1, 128))],
)
def test_the_generator_has_the_published_shape(hidden: int, share: float, expected: tuple[int, int, int]):
    big = ElectraConfig(hidden_size=hidden, num_attention_heads=2, embedding_size=128, num_hidden_layers=5)
    small = generator_config(big, share)
    assert (small.hidden_size, small.num_attention_heads, small.intermediate_size) == expected
    assert (small.embedding_size, small.num_hidden_layers, small.vocab_size) == (128, 5, big.vocab_size)
    assert big.hidden_size == hidden


def test_samples_follow_the_distribution():
    torch.manual_seed(0)
    logits, count = torch.randn(6) * 2, 100_000
    chances = (torch.arange(count) * (2**30 // count)).clamp(max=2**30 - 1)
    for temperature in (1.0, 0.5):
        drawn = sample_tokens(logits.expand(count, -1), chances, temperature)
        shares = torch.bincount(drawn, minlength=6) / count
        torch.testing.assert_close(shares, (logits / temperature).softmax(0), atol=1e-4, rtol=0)


def test_samples_are_in_range_and_possible():
    ends = torch.tensor([0, 2**30 - 1])
    possible = torch.full((2, 9), -torch.inf)
    possible[:, 3:6] = 0.0
    assert sample_tokens(possible, ends, 1.0).tolist() == [3, 5]
    assert sample_tokens(torch.zeros(2, 50_000), ends, 1.0).tolist() == [0, 49_999]
    assert sample_tokens(torch.full((2, 9), torch.nan), ends, 1.0).max() < 9


@pytest.fixture(scope="module")
def checkpoint(corpus: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("electra")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        task, _ = prepared(corpus, folder, max_steps=2)
    task.trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


def test_the_generator_is_exported_if_asked(checkpoint: Path, tmp_path: Path):
    task = ReplacedTokenDetection.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    ids = torch.arange(24).view(2, 12)
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    assert not [path for path in folder.iterdir() if path.is_dir()]
    for _ in range(2):  # the second replaces the first
        export(checkpoint, folder, ReplacedTokenDetection, auxiliary=True)
    assert "generator/config.json" in json.loads((folder / "ptm_lightning.json").read_text())["files"]
    found = AutoModelForPreTraining.from_pretrained(folder).eval()
    small = AutoModelForMaskedLM.from_pretrained(folder / "generator").eval()
    assert isinstance(found, ElectraForPreTraining)
    with torch.no_grad():
        torch.testing.assert_close(found(ids).logits, task.network(ids).logits)
        torch.testing.assert_close(small(ids).logits, task.generator(ids).logits)
    (folder / "generator" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds files of yours \(generator/notes.txt\)"):
        export(checkpoint, folder, ReplacedTokenDetection)


def test_new_words_extend_the_generator_too(checkpoint: Path, corpus: Path, tmp_path: Path):
    words = tmp_path / "words.txt"
    words.write_text("photosynthesis\nchloroplast\n")
    task = ReplacedTokenDetection()
    start_from(task, checkpoint)
    assert task.generator is not None
    old = task.generator.get_output_embeddings().bias.detach().clone()
    module = ReplacedTokenData(
        train=[str(corpus)], new_words=str(words), max_length=48, batch_tokens=600, validation_share=0.1
    )
    trainer = Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=1, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(task, module)
    network, head, size = task.network, task.generator.get_output_embeddings(), len(old) + 2
    assert network is not None
    assert head.weight is task.generator.get_input_embeddings().weight is network.get_input_embeddings().weight
    assert (head.bias.shape, head.weight.shape[0]) == ((size,), size)
    assert task.generator.config.vocab_size == network.config.vocab_size == size
    new = task.link.new_tokens  # type: ignore[union-attr]
    assert len(new) == 2
    for nth, pieces in enumerate(new.values()):  # one step away from where they began
        assert head.bias[len(old) + nth].item() == pytest.approx(old[list(pieces)].mean().item(), abs=0.01)


def test_another_shape_of_generator_does_not_take_the_weights(checkpoint: Path):
    with pytest.raises(UserError, match="its weights don't fit ReplacedTokenDetection"):
        start_from(ReplacedTokenDetection(generator_share=0.5), checkpoint)


def test_a_backbone_is_the_discriminator(
    checkpoint: Path, corpus: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    task, _ = prepared(corpus, tmp_path, {"backbone": str(folder), "overrides": None})
    assert "has no generator; it starts from scratch" in caplog.text
    found = ElectraForPreTraining.from_pretrained(folder)
    for name, weight in found.state_dict().items():
        torch.testing.assert_close(task.network.state_dict()[name], weight)
    assert task.generator.electra.embeddings is task.network.electra.embeddings


def test_a_backbone_of_another_kind_is_refused(checkpoint: Path, corpus: Path, tmp_path: Path):
    folder = export(checkpoint, tmp_path / "model", ReplacedTokenDetection)
    BertForPreTraining(BertConfig(vocab_size=600, **TINY)).save_pretrained(folder)
    with pytest.raises(UserError, match="is a bert; replaced token detection needs an electra"):
        prepared(corpus, tmp_path, {"backbone": str(folder), "overrides": None}, cache_dir=str(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()  # nothing was tokenized


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "bert"}, "--model.architecture bert: replaced token detection needs electra"),
        ({"generator_share": 0.0}, "--model.generator_share 0.0: give a share up to 1"),
        ({"generator_share": 1.5}, "--model.generator_share 1.5: give a share up to 1"),
        ({"temperature": 0.0}, "--model.temperature 0.0: give a positive number"),
        ({"discriminator_weight": -1.0}, "--model.discriminator_weight -1.0: give a positive number"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        ReplacedTokenDetection(**arguments)


def test_a_generator_whose_heads_do_not_fit_is_refused():
    with pytest.raises(UserError, match=r"a generator 129 wide can't have 2 attention heads"):
        generator_config(ElectraConfig(hidden_size=256), 129 / 256)
    with pytest.raises(UserError, match="a generator 0 wide"):
        generator_config(ElectraConfig(hidden_size=256), 0.001)
