"""What tasks share that answer with text: which examples are generated for, by which settings, in which order."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from answering import summaries_file, trainer_for
from ptm_lightning.tasks import SummarizationData
from summarizing import prepared

from ptm_lightning.__main__ import main
from ptm_lightning.data.predict import WINDOW
from ptm_lightning.data.seq2seq import prompts
from ptm_lightning.errors import UserError
from ptm_lightning.generate import answer_sorted, in_groups
from ptm_lightning.testing_case import tiny
from ptm_lightning.testing_texts import document


def test_training_validates_on_some_answers_and_validate_on_all(tmp_path: Path):
    task, data = prepared(summaries_file(tmp_path), {"validation_answers": 5}, validation_share=0.3)
    batches: Any = list(data.val_dataloader())
    seen = []
    task.measure = lambda sources, answers, references: seen.append((sources, references)) or {}
    for verb, wanted in (("fit", 5), ("validate", 18)):
        task.trainer.state.fn = verb
        chosen = sorted(n for batch in batches for n in batch["examples"][task._chosen(batch["examples"])].tolist())
        assert len(chosen) == wanted
    assert chosen == list(range(18))
    task.trainer.state.fn = "fit"
    some = sorted(n for batch in batches for n in batch["examples"][task._chosen(batch["examples"])].tolist())
    assert all(3 <= b - a <= 4 for a, b in pairwise(some))  # evenly spread
    trainer_for(tmp_path, 0).validate(task, data, verbose=False)
    kept = list(data.corpus.validation.rows(range(18)))
    assert seen == [([row["document"] for row in kept], [row["summary"] for row in kept])]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 3},
        {"max_new_tokens": 3},
        {"min_new_tokens": 12},
        {"no_repeat_ngram_size": 1},
        {"temperature": 2.0},
        {"temperature": 2.0, "top_p": 0.05},
        {"num_beams": 3, "length_penalty": 5.0},
    ],
    ids=str,
)
def test_settings_are_transformers_own_and_the_order_is_kept(tmp_path: Path, settings: dict[str, Any]):
    """What each input gets is what transformers generates for it alone by the config that is exported."""
    task, data = prepared(summaries_file(tmp_path, 30), settings, steps=2)
    inputs = [ids for batch in data.train_dataloader() for ids in prompts(batch)][:12]
    inputs = inputs[::2] + inputs[1::2]
    places = 1 if "temperature" in settings else 300  # a sample depends on what is drawn for the others
    found = answer_sorted(task.network, inputs, places, seed=7)
    config = task.network.generation_config
    for ids, ours in zip(inputs, found, strict=True):
        torch.manual_seed(7)
        row = task.network.eval().generate(torch.tensor([ids]), generation_config=config)[0, 1:].tolist()
        end = row.index(config.eos_token_id) if config.eos_token_id in row else len(row)
        assert row[:end] == ours
    for name, value in settings.items():
        assert getattr(config, name) == value


@pytest.mark.parametrize(
    ("rows", "places", "sizes"),
    [(1, 1, [1] * 6), (1, 40, [3, 2, 1]), (2, 40, [2, 1, 1, 1, 1]), (2, 80, [3, 2, 1]), (1, 10**6, [6])],
)
def test_groups_have_like_lengths_and_bounded_places(rows: int, places: int, sizes: list[int]):
    prompts = [[7] * length for length in (9, 2, 30, 1, 10, 8)]
    seen: list[list[int]] = []

    def answer(group):
        seen.append([len(prompt) for prompt in group])
        return [str(len(prompt)) for prompt in group]

    assert in_groups(answer, prompts, 5, rows, places) == ["9", "2", "30", "1", "10", "8"]
    assert [len(group) for group in seen] == sizes
    assert [length for group in seen for length in group] == [1, 2, 8, 9, 10, 30]


@pytest.mark.parametrize(
    ("settings", "forced"),
    [
        ({}, {}),
        ({"min_new_tokens": 4, "no_repeat_ngram_size": 1}, {"forced_bos_token_id": 7}),
        ({"num_beams": 3, "n_best": 3}, {}),
        ({"num_beams": 4, "n_best": 2, "length_penalty": 2.0, "min_new_tokens": 5}, {"forced_bos_token_id": 7}),
        (
            {"num_beams": 3, "n_best": 3, "no_repeat_ngram_size": 2, "length_penalty": 0.5},
            {"forced_eos_token_id": None},
        ),
        ({"temperature": 1.0, "n_best": 3}, {}),
    ],
    ids=str,
)
def test_answers_and_scores_are_transformers_own(tmp_path: Path, settings: dict[str, Any], forced: dict[str, Any]):
    """The n best by beams, with their length-normalised scores; without beams, the mean of the tokens' chances."""
    task, _ = prepared(summaries_file(tmp_path), settings)
    network, tokenizer, count = task.network.eval(), task.tokenizer(), settings.get("n_best", 1)
    network.model.shared.weight.data *= 4  # so that answers end at different lengths
    network.final_logits_bias[0, 2] = 2
    data = SummarizationData(text=[document(i) for i in range(7)], batch_size=1 if "temperature" in settings else 3)
    task._configure_answers()
    task.configure_model = task._configure_answers = lambda: None
    config = network.generation_config
    for name, value in forced.items():
        setattr(config, name, value)
    for row in (row for part in trainer_for(tmp_path, 0).predict(task, data) for row in part):
        torch.manual_seed(task.seed)
        out = network.generate(
            torch.tensor([tokenizer(row["text"])["input_ids"]]), generation_config=config, num_return_sequences=count,
            return_dict_in_generate=True, output_scores=True, output_logits=True,
        )  # fmt: skip
        texts = [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in out.sequences]
        if config.num_beams > 1:
            scores = out.sequences_scores.tolist()
        else:
            chances = torch.stack(out.logits, dim=1).log_softmax(dim=-1)
            taken = chances.gather(2, out.sequences[:, 1:, None]).squeeze(2)
            taken[:, : len(forced)] = taken[:, 11:] = 0
            lengths = [ids.index(2) + 1 if 2 in ids else len(ids) for ids in out.sequences[:, 1:].tolist()]
            scores = [float(row[:length].mean()) for row, length in zip(taken, lengths, strict=True)]
        wanted = sorted(zip(scores, texts, strict=True), reverse=True)
        found = row.get("answers", [{"text": row["prediction"], "score": row["score"]}])
        assert [one["text"] for one in found] == [text for _, text in wanted]
        assert [one["score"] for one in found] == pytest.approx([score for score, _ in wanted], abs=1e-5)
        assert (row["prediction"], row["score"]) == (found[0]["text"], found[0]["score"])
        assert len(found) == count


def test_long_and_short_texts_are_answered_in_their_order(tmp_path: Path):
    task, _ = prepared(summaries_file(tmp_path), steps=2)
    texts = [document(i) * (1 + i % 3) for i in range(40)]
    answers = {}
    for size in (1, 3, None):
        module = SummarizationData(text=texts, batch_size=size)
        found = [row for part in trainer_for(tmp_path, 0).predict(task, module) for row in part]
        assert [row["id"] for row in found] == list(map(str, range(40)))
        assert [row["text"] for row in found] == texts
        answers[size] = [row["prediction"] for row in found]
    assert answers[1] == answers[3] == answers[None]
    module = SummarizationData(text=["a"] * (3 * WINDOW + 1), batch_size=3)
    parts = trainer_for(tmp_path, 0).predict(task, module)
    assert [len(part) for part in parts] == [3 * WINDOW, 1]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"label_smoothing": 1.0}, r"--model.label_smoothing 1.0: give a share below 1"),
        ({"top_p": 0.5}, r"--model.top_p 0.5: only means something when sampling"),
        ({"length_penalty": 2.0}, r"--model.length_penalty 2.0: only beams have one"),
        ({"num_beams": 0}, "give at least 1"),
        ({"n_best": 0}, "give at least 1"),
        ({"n_best": 3, "num_beams": 2}, r"--model.n_best 3: the search has 2 beams; give --model.num_beams 3, or samp"),
        ({"validation_answers": 0}, "give at least 1"),
        ({"max_new_tokens": 500}, r"--model.max_new_tokens 500: the model has 128 positions; give at most 128"),
        ({"max_new_tokens": 0}, r"--model.max_new_tokens 0: give at least 1"),
        ({"min_new_tokens": 13}, r"--model.min_new_tokens 13: the longest answer has 12 tokens"),
        ({"head_learning_rate": 0.1}, r"--model.head_learning_rate: the network has no head beside its body"),
        ({"frozen_layers": -1}, r"--model.frozen_layers -1: leaves nothing to learn; give fewer"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, task: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        prepared(summaries_file(tmp_path), task)


@pytest.mark.parametrize("architecture", ["bart", "t5"])
def test_layers_are_frozen_from_below(tmp_path: Path, architecture: str):
    """Of encoder and decoder alike; T5, whose parts have no common prefix, too."""
    options = {"architecture": architecture, "overrides": tiny(architecture), "frozen_layers": 1}
    with_two = {"bart": {"encoder_layers": 2, "decoder_layers": 2}, "t5": {"num_layers": 2, "num_decoder_layers": 2}}
    task, _ = prepared(summaries_file(tmp_path), options | {"overrides": tiny(architecture) | with_two[architecture]})
    first, second = {"bart": (".layers.0.", ".layers.1."), "t5": (".block.0.", ".block.1.")}[architecture]
    for name, parameter in task.network.named_parameters():
        frozen = first in name or "embed" in name or "shared" in name
        assert parameter.requires_grad != frozen, name
        assert frozen or second in name or "layer_norm" in name


@pytest.mark.parametrize(
    ("preset", "scores", "text"),
    [
        ("translation", ("bleu", "bleu_copy", "chrf", "ter"), "two, one"),
        ("summarization", ("rougeL", "rougeL_lead3"), "A"),
    ],
)
def test_a_preset_runs_from_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    preset: str,
    scores: Any,
    text: str,
):
    """Through the real command line: fit, test, predict."""
    monkeypatch.chdir(tmp_path)
    small = [f"--model.overrides={json.dumps(tiny('bart'))}", "--data.vocab_size=400", "--data.max_length=64"]
    short = ["--model.validation_answers=3", "--model.max_new_tokens=5", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", preset, *small, *short, "--trainer.max_steps=2", "--run_dir=run"]) == 0
    screen = capfd.readouterr().out
    assert all(f"val/{name} " in screen for name in scores)
    assert "  reference " in screen
    assert main(["test", "--run_dir=run", "--trainer.limit_test_batches=2", "--trainer.accelerator=cpu"]) == 0
    screen = capfd.readouterr().out
    assert all(f"test/{name} " in screen for name in scores)
    assert main(["predict", "--run_dir=run", "--text", text, "--model.num_beams=2", "--trainer.accelerator=cpu"]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    assert json.loads(line).keys() == {"id", "text", "prediction", "score"}
    assert (tmp_path / "run" / "model" / "generation_config.json").exists()
