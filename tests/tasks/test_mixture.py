"""A mixture of tasks against its parts' own tasks, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from ptm_lightning.tasks import CausalLMData, MaskedLM, MaskedLMData, Mixture, MixtureData

from ptm_lightning.checkpoint import load_checkpoint
from ptm_lightning.data.mixed import of_part
from ptm_lightning.errors import UserError
from ptm_lightning.origin import start_from, start_run
from ptm_lightning.terms import RunningSums
from ptm_lightning.testing_case import Recorder, digest

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
PARTS: dict[str, Any] = {
    "words": {"task": "MaskedLM", "masking": "word", "weight": 3},
    "tokens": {"task": "MaskedLM", "mask_rate": 0.3, "weight": 1},
}


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Text that isn't the corpus."""
    path = tmp_path / "other.txt"
    path.write_text("\n\n".join(f"Sheep number {i} sees {i * 7 % 31} wolves near the river." for i in range(90)))
    return path


def data(corpus: Path, parts: dict[str, Any] = PARTS, **changes: Any) -> MixtureData:
    given = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 400, "validation_share": 0.1}
    return MixtureData(**given | {"parts": parts} | changes)


def fit(task: Any, module: Any, *callbacks: Any, resume: Any = None, **settings: Any) -> Recorder:
    recorder = Recorder()
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    steps = {"max_steps": 8} | settings
    validates = {"val_check_interval": steps["max_steps"], "check_val_every_n_epoch": None}
    trainer = Trainer(
        accelerator="cpu", num_sanity_val_steps=0, callbacks=[recorder, *callbacks],
        enable_checkpointing=bool(callbacks), **quiet | validates | steps,
    )  # fmt: skip
    trainer.fit(task, module, ckpt_path=resume, weights_only=True)
    return recorder


def test_each_part_s_loss_is_that_of_its_own_task(corpus: Path) -> None:
    task, module = Mixture(overrides=TINY), data(corpus)
    seen = fit(task, module, limit_val_batches=4)
    assert {batch["part"] for batch in seen.batches} == {"words", "tokens"}
    for batch in [*seen.batches[:4], *seen.validation_batches]:
        alone = MaskedLM(overrides=TINY)
        alone.link, alone.network = task.link, task.network
        for mode in (task, alone):
            mode.eval()
        with torch.no_grad():
            mine, theirs = task.terms(batch), alone.terms(of_part(batch))
        assert {name.partition("/")[2]: float(term.sum) for name, term in mine.items()} == {
            name: float(term.sum) for name, term in theirs.items()
        }
        assert {name.partition("/")[0] for name in mine} == {batch["part"]}
        assert batch["counts"][f"{batch['part']}/mlm"] == len(batch["targets"])


def test_each_part_s_batches_are_those_of_its_own_module(corpus: Path) -> None:
    """Three of four steps are the first part's, each with its next batch."""
    seen = fit(Mixture(overrides=TINY), data(corpus))
    shared = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 400, "validation_share": 0.1}
    for name, count in {"words": 6, "tokens": 2}.items():
        mine = [batch for batch in seen.batches if batch["part"] == name]
        assert len(mine) == count
        own = {key: value for key, value in PARTS[name].items() if key not in ("task", "weight")}
        alone = fit(MaskedLM(overrides=TINY), MaskedLMData(**shared, **own), max_steps=count)
        for batch, theirs in zip(mine, alone.batches, strict=True):
            unnamed = of_part(batch)
            assert all(digest(unnamed[key]) == digest(theirs[key]) for key in theirs if key != "step_counts")


def test_every_part_validates_on_its_own_text(corpus: Path, other: Path) -> None:
    parts = {"python": {"task": "MaskedLM"}, "sheep": {"task": "MaskedLM", "train": str(other)}}
    task, module = Mixture(overrides=TINY), data(corpus, parts)
    metrics = fit(task, module).metrics
    for name in parts:
        batches = [batch for batch in module.val_dataloader() if batch["part"] == name]
        sums = RunningSums()
        alone = MaskedLM(overrides=TINY)
        alone.link, alone.network = task.link, task.network
        alone.eval()
        with torch.no_grad():
            for batch in batches:
                sums.add(alone.terms(of_part(batch)))
        for metric, value in alone.means(sums, "val").items():
            assert metrics[metric.replace("val/", f"val/{name}/")] == pytest.approx(value, rel=1e-5)
        assert (
            sum(batch["counts"]["tokens"] for batch in batches) > module.modules[name].corpus.validation.info["tokens"]
        )
    sizes = {name: len(member.corpus.train.tokens) for name, member in module.modules.items()}
    mean = sum(size * metrics[f"val/{name}/loss"] for name, size in sizes.items()) / sum(sizes.values())
    assert metrics["val/loss"] == pytest.approx(mean, rel=1e-5)
    assert task.link.provenance["train"]["tokens"] == sum(sizes.values())
    vocabulary = module.hf_tokenizer.get_vocab()
    assert "wolves" in vocabulary, "the tokenizer is trained on the text of all parts"


@pytest.mark.parametrize("workers", [0, 2])
def test_resume_is_bit_identical_by_weights(corpus: Path, tmp_path: Path, workers: int) -> None:
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "val_check_interval": 4}
    whole = fit(Mixture(overrides=TINY, ema=0.9), data(corpus), saver, **settings)
    for step in (1, 3, 4, 7):
        again = Mixture(overrides=TINY, ema=0.9)
        rest = fit(again, data(corpus, num_workers=workers), resume=tmp_path / f"step={step}.ckpt", **settings)
        assert digest(rest.batches) == digest(whole.batches[2 * step :])
        assert rest.losses == whole.losses[step:]
        assert digest(rest.final) == digest(whole.final)


def test_weights_are_shares_of_the_steps(corpus: Path) -> None:
    names = [batch["part"] for batch in fit(Mixture(overrides=TINY), data(corpus), max_steps=40).batches]
    assert names.count("words") == 30
    parts = {"words": {**PARTS["words"], "weight": 0}, "tokens": PARTS["tokens"]}
    seen = fit(Mixture(overrides=TINY), data(corpus, parts), max_steps=6)
    assert {batch["part"] for batch in seen.batches} == {"tokens"}
    assert seen.metrics["val/loss"] == seen.metrics["val/tokens/loss"]
    assert seen.metrics["val/words/loss"] > 0


def test_a_part_takes_over_what_it_does_not_set(corpus: Path, other: Path) -> None:
    shared = {"validation": ["v.txt"], "test": ["t.txt"], "columns": {"text": "body"}, "seed": 7, "batch_size": 5}
    parts = {
        "all": {"task": "MaskedLM", "max_length": 20},
        "own": {"task": "MaskedLM", "train": [str(other)], "batch_tokens": 300},
    }
    module = data(corpus, parts, batch_tokens=None, **shared)
    first, second = module.modules.values()
    assert (first.train, first.validation, first.test, first.columns) == (
        module.train,
        ["v.txt"],
        ["t.txt"],
        shared["columns"],
    )
    assert (first.max_length, first.seed, first.batch_size, first.batch_tokens) == (20, 7, 5, None)
    assert (second.train, second.validation, second.test, second.columns) == ([str(other)], None, None, None)
    assert (second.max_length, second.seed, second.batch_size, second.batch_tokens) == (48, 7, None, 300)


def test_other_heads_share_a_network_that_they_fit(corpus: Path) -> None:
    parts = {"span": {"task": "SpanCorruption", "weight": 1}, "noise": {"task": "Denoising", "weight": 1}}
    fields = {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 64, "num_layers": 1, "num_decoder_layers": 1}
    task = Mixture(architecture="t5", overrides=fields)
    seen = fit(task, data(corpus, parts, max_length=64), max_steps=4)
    assert [batch["part"] for batch in seen.batches] == ["span", "noise", "span", "noise"]
    assert task.auto_class == "AutoModelForSeq2SeqLM"
    assert {"val/span/loss", "val/noise/loss"} <= seen.metrics.keys()


def test_causal_parts_have_the_causal_tokenizer_and_network(corpus: Path) -> None:
    parts = {"text": {"task": "CausalLM"}, "blocks": {"task": "CausalLM", "layout": "blocks"}}
    task, module = (
        Mixture(architecture="gpt2", overrides={"n_embd": 32, "n_layer": 1, "n_head": 2}),
        data(corpus, parts),
    )
    assert module.tokenizer_algorithm == CausalLMData().tokenizer_algorithm
    seen = fit(task, module, max_steps=2)
    assert seen.metrics["val/text/bits_per_byte"] > 0
    with pytest.raises(UserError, match="its predictions see later tokens"):
        fit(Mixture(overrides=TINY), data(corpus, parts))


def test_it_starts_from_another_task_s_run_and_refuses_another_head(corpus: Path, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="masked", every_n_train_steps=2)
    shared = {"train": [str(corpus)], "vocab_size": 600, "max_length": 48, "batch_tokens": 400}
    trained = fit(MaskedLM(overrides=TINY, size="mini"), MaskedLMData(**shared), saver, max_steps=2)
    task = Mixture()
    start_run(task, str(tmp_path / "masked.ckpt"))
    assert (task.size, task.overrides, task.auto_class) == ("mini", TINY, "AutoModelForMaskedLM")
    seen = fit(task, data(corpus), max_steps=1)
    assert digest(seen.initial) == digest(trained.final)
    parts = {"text": {"task": "CausalLM"}}
    other = Mixture()
    start_run(other, str(tmp_path / "masked.ckpt"))
    with pytest.raises(UserError, match="CausalLM: needs an AutoModelForCausalLM, and --init_from has an"):
        fit(other, data(corpus, parts))


def test_a_checkpoint_tells_its_parts(corpus: Path, tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, filename="mixture", every_n_train_steps=2)
    fit(Mixture(overrides=TINY), data(corpus), saver, max_steps=2)
    link = load_checkpoint(tmp_path / "mixture.ckpt")["ptm_lightning"]["link"]
    assert link["parts"] == {"words": {"task": "MaskedLM", "share": 3.0}, "tokens": {"task": "MaskedLM", "share": 1.0}}
    task = Mixture()
    start_from(task, tmp_path / "mixture.ckpt")
    assert list(task.parts) == ["words", "tokens"]
    assert all(part.network is task.network for part in task.parts.values())
    assert not [name for name in task.state_dict() if not name.startswith("network.")]


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "--data.parts: name each part and its task in a --config file"),
    ({"a/b": {"task": "MaskedLM"}}, "--data.parts.a/b: name a part with letters"),
    ({"words": {"masking": "word"}}, "--data.parts.words: say its task, such as --data.parts.words.task MaskedLM"),
    ({"words": {"task": "MaskdLM"}}, "--data.parts.words.task MaskdLM: no such class; did you mean 'MaskedLM'"),
    ({"words": {"task": "MaskedLM", "weight": "much"}}, "--data.parts.words.weight much: give a number, such as 0.2"),
    ({"words": {"task": "MaskedLM", "weight": -1}}, "--data.parts.words.weight -1: give a number"),
    ({"words": {"task": "MaskedLM", "weight": True}}, "--data.parts.words.weight True: give a number"),
    ({"words": {"task": "MaskedLM", "weight": float("nan")}}, "--data.parts.words.weight nan: give a number"),
    ({"words": {"task": "MaskedLM", "weight": 0}}, "--data.parts: all weights are 0"),
    (
        {"words": {"task": "MaskedLM", "weight": 1}, "tokens": {"task": "MaskedLM"}},
        "--data.parts.tokens.weight: other parts have a weight; give this one its own",
    ),
    (
        {"words": {"task": "MaskedLM"}, "next": {"task": "CausalLM"}},
        "--data.parts.next.task CausalLM: the parts share one network, and that of MaskedLM has another head; it fits",
    ),
    ({"words": {"task": "Mixture"}}, "--data.parts.words.task Mixture: the parts share one network"),
    ({"words": {"task": "MaskedLM", "maskin": "word"}}, "--data.parts.words.maskin: MaskedLMData has no 'maskin'; did"),
    ({"words": {"task": "MaskedLM", "masking": "line"}}, "--data.parts.words.masking line: give token"),
    ({"words": {"task": "MaskedLM", "max_length": "long"}}, "--data.parts.words.max_length long: give a whole number"),
    ({"words": {"task": "MaskedLM", "vocab_size": 90}}, "--data.parts.words.vocab_size: all parts share it"),
    ({"words": {"task": "MaskedLM", "train": []}}, "--data.parts.words.train: give a source"),
    (
        {"words": {"task": "MaskedLM", "mask_rate": 2.0}},
        "--data.parts.words.mask_rate 2.0: give a share between",
    ),
]


@pytest.mark.parametrize(("parts", "message"), REFUSED, ids=[message[:50] for _, message in REFUSED])
def test_what_is_refused(corpus: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        data(corpus, parts)
    assert str(error.value).startswith(message)


def test_a_source_of_a_part_is_named_by_its_own_flag(corpus: Path) -> None:
    parts = {"words": {"task": "MaskedLM", "train": "nowhere.txt"}}
    with pytest.raises(UserError, match=r"^--data.parts.words.train: no file .nowhere.txt"):
        fit(Mixture(overrides=TINY), data(corpus, parts))
    with pytest.raises(UserError, match=r"^--data.train: give a source, for the part words"):
        data(corpus, {"words": {"task": "MaskedLM"}}, train=[])


def test_a_task_with_a_second_network_is_no_part(corpus: Path) -> None:
    parts = {"replaced": {"task": "ReplacedTokenDetection"}}
    with pytest.raises(UserError, match=r"parts\.replaced\.task ReplacedTokenDetection: trains a second network"):
        fit(Mixture(architecture="electra", overrides=TINY), data(corpus, parts))


def test_predictions_and_examples_are_the_parts(corpus: Path) -> None:
    task, module = Mixture(overrides=TINY), data(corpus, text=["a [MASK] of text", "the [MASK]"])
    fit(task, module, max_steps=1)
    assert task.example_text() is not None
    shown = task.eval().examples(next(iter(module.val_dataloader())))[0]
    assert (shown["part"], "guesses" in shown) == ("words", True)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    predicted = trainer.predict(task, data(corpus, train=["gone.txt"], text=["a [MASK] of text", "the [MASK]"]))
    assert [row["id"] for batch in predicted for row in batch] == ["0", "1"]
