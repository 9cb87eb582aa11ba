"""The command line, driven in-process on a tiny corpus."""

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from ptm_lightning.__main__ import COMMANDS, main
from ptm_lightning.data.module import TextData
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.levers import is_on, switch_off
from ptm_lightning.origin import NETWORK
from ptm_lightning.plugins import find_class, load_plugins
from ptm_lightning.presets import merge, preset_names, read_layer
from ptm_lightning.run import RunLock, read_config, read_state
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

LAYOUT = ["--data.max_length=32", "--data.batch_tokens=512", "--data.validation_share=0.1", "--trainer.accelerator=cpu"]
DATA = ["--data.vocab_size=600", *LAYOUT]
SIZE = [f"--model.overrides={json.dumps(tiny('bert'))}", *DATA]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fit(corpus: Path, *more: str) -> int:
    return main(["fit", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE, *more])


def metrics(folder: Path) -> list[dict[str, str]]:
    with open(folder / "metrics.csv", newline="") as file:
        return [row for row in csv.DictReader(file) if not row["metric"].startswith("speed/")]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        assert fit(corpus, "--trainer.max_steps=12", "--trainer.log_every_n_steps=4", "--run_dir", str(folder)) == 0
    return folder


def test_a_run_folder_holds_everything(trained: Path):
    assert read_state(trained)["state"] == "finished"
    names = {row["metric"] for row in metrics(trained)}
    assert {"train/loss", "train/learning_rate", "train/gradient_norm", "val/loss", "val/loss_new_sentences"} <= names
    assert {row["step"] for row in metrics(trained) if row["metric"] == "val/loss"} >= {"0", "12"}
    assert list((trained / "checkpoints").glob("step=*.ckpt"))
    AutoModelForMaskedLM.from_pretrained(trained / "model")
    assert AutoTokenizer.from_pretrained(trained / "model").mask_token == "[MASK]"


def test_a_budget_in_tokens_or_hours_ends_the_run(here: Path, corpus: Path):
    assert fit(corpus, "--max_tokens=3e3", "--run_dir=tokens") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "tokens") if row["tokens"]) in range(3_000, 3_600)
    assert fit(corpus, "--resume=tokens", "--max_tokens=5e3") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "tokens") if row["tokens"]) in range(5_000, 5_600)
    assert read_config(here / "tokens")["max_tokens"] == 5_000
    assert fit(corpus, "--max_hours=0.001", "--run_dir=hours") == 0
    (here / "limit.yaml").write_text("max_tokens: 2e3\n")
    assert fit(corpus, "--config=limit.yaml", "--run_dir=yaml") == 0
    assert max(int(row["tokens"]) for row in metrics(here / "yaml") if row["tokens"]) in range(2_000, 2_600)


def test_the_summary_says_what_was_learned_and_what_is_next(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    screen = capfd.readouterr()
    for text in ("val/loss", "at step 0", "unigram model loss", "guesses", "next:    python -m ptm_lightning predict"):
        assert text in screen.out
    assert "parameters" in screen.out + screen.err


def test_a_run_without_a_record_ends_well(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=1", "--run_dir=run", "--trainer.logger=false") == 0
    screen = capfd.readouterr().out
    assert "model:   run/model" in screen
    assert "metrics:" not in screen


def test_equal_seeds_are_equal_runs(here: Path, corpus: Path):
    for name in ("one", "two"):
        assert fit(corpus, "--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--run_dir", name, "--seed=3") == 0
    assert fit(corpus, "--trainer.max_steps=6", "--trainer.log_every_n_steps=2", "--run_dir=three", "--seed=4") == 0
    assert metrics(here / "one") == metrics(here / "two") != metrics(here / "three")


def test_resume_goes_on_with_more_steps(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run", "--model.schedule=constant") == 0
    capfd.readouterr()
    assert main(["fit", "--resume", "run", "--trainer.max_steps=8"]) == 0
    assert fit(corpus, "--trainer.max_steps=8", "--run_dir=whole", "--model.schedule=constant", "--model.warmup=0") == 0
    steps = {int(row["step"]) for row in metrics(here / "run") if row["metric"] == "val/loss"}
    assert {4, 8} <= steps


def test_resume_says_that_the_schedule_moves(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    capfd.readouterr()
    assert main(["fit", "--resume=run"]) == 0
    assert "schedule now" not in capfd.readouterr().err
    assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
    assert "the schedule now ends at step 6, before it was 4" in capfd.readouterr().err.splitlines()


def test_resume_takes_the_threads_of_the_run(
    here: Path, corpus: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    before = torch.get_num_threads()
    assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run") == 0
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", str(before + 1))
        torch.set_num_threads(before + 1)
        assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
        assert f"continues, not bit-identical: threads: {before} then, {before + 1} now" in capfd.readouterr().err
        monkeypatch.delenv("OMP_NUM_THREADS")
        torch.set_num_threads(before)
        assert main(["fit", "--resume=run", "--trainer.max_steps=8"]) == 0
        assert torch.get_num_threads() == before + 1
        assert "not bit-identical" not in capfd.readouterr().err
    finally:
        torch.set_num_threads(before)


def test_levers_stay_off_as_long_as_the_run_lasts(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    def kernels() -> dict[str, str]:
        return read_config(here / "run")["environment"]["kernels"]

    try:
        assert fit(corpus, "--trainer.max_steps=4", "--run_dir=run", "--off", "dropout", "matmul") == 0
        assert [name for name in ("attention", "dropout", "matmul") if not is_on(name)] == ["dropout", "matmul"]
        assert main(["fit", "--resume=run", "--trainer.max_steps=6"]) == 0
        assert (kernels()["dropout"], kernels()["matmul"], kernels()["attention"]) == ("default", "default", "own")
        assert not is_on("dropout")
        capfd.readouterr()
        assert main(["fit", "--resume=run", "--trainer.max_steps=8", "--off", "attention"]) == 2
        assert "--off: a run goes on with the kernels that it began with; leave it out" in capfd.readouterr().err
        assert main(["fit", "--off", "attentoin"]) == 2
        assert "argument --off: invalid choice: 'attentoin'" in capfd.readouterr().err
        assert fit(corpus, "--trainer.max_steps=4", "--run_dir=other") == 0
        assert is_on("dropout")
    finally:
        switch_off([])


def test_resume_refuses_another_setting_with_both_values(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=2", "--run_dir=run") == 0
    capfd.readouterr()
    assert main(["fit", "--resume", "run", "--model.learning_rate=0.5"]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: --model.learning_rate: 0.5 now, None in run; leave it out to go on")


def test_validate_and_predict_with_the_run(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["validate", "--run_dir", str(trained)]) == 0
    assert "val/perplexity" in capfd.readouterr().out
    assert main(["predict", "--run_dir", str(trained), "--text", "the [MASK] of it"]) == 0
    row = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert row["text"] == "the [MASK] of it"
    assert len(row["guesses"][0]) == 5


def test_two_processes_evaluate_every_document_once(trained: Path):
    program = [sys.executable, "-m", "ptm_lightning", "validate", "--run_dir", str(trained)]
    several = ["--data.batch_tokens=128", "--trainer.accelerator=cpu"]  # 11 batches

    def screen(processes: int) -> str:
        run = subprocess.run([*program, *several, f"--trainer.devices={processes}"], capture_output=True, text=True)
        return run.stdout

    assert "\nval/loss " in screen(1)
    assert screen(2) == screen(1)


def test_predict_keeps_ids_and_order(trained: Path, here: Path):
    rows = [{"id": name, "text": f"{name} is [MASK]"} for name in ("b", "a", "c")]
    (here / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["predict", "--run_dir", str(trained), "--data.predict", "in.jsonl", "--output", "out.jsonl"]) == 0
    assert [json.loads(line)["id"] for line in (here / "out.jsonl").read_text().splitlines()] == ["b", "a", "c"]


def test_export_of_the_last_checkpoint(trained: Path, here: Path):
    assert main(["export", "--run_dir", str(trained), "--checkpoint", "last", "--output", "folder"]) == 0
    assert (here / "folder" / "model.safetensors").exists()


def test_export_of_auxiliary_networks_where_there_are_none(
    trained: Path, here: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["export", "--run_dir", str(trained), "--auxiliary", "--output", "folder"]) == 2
    assert "error: --auxiliary: MaskedLM has no network beside the one that is exported" in capfd.readouterr().err
    assert not (here / "folder").exists()


@pytest.mark.parametrize("what", ["a run", "a checkpoint", "a folder"])
def test_init_from_takes_the_weights(what: str, trained: Path, here: Path, corpus: Path):
    checkpoint = next((trained / "checkpoints").glob("*.ckpt"))
    source = {"a run": trained, "a checkpoint": checkpoint, "a folder": trained / "model"}[what]
    arguments = ["fit", "--model", "MaskedLM", "--data.train", str(corpus), *LAYOUT, "--init_from", str(source)]
    assert main([*arguments, "--trainer.max_steps=1", "--run_dir=run"]) == 0
    first = [float(row["value"]) for row in metrics(trained) if row["metric"] == "val/loss"]
    begun = [float(row["value"]) for row in metrics(here / "run") if row["metric"] == "val/loss"]
    assert begun[0] < first[0]
    told, before = read_config(here / "run")["model"], read_config(trained)["model"]
    if what == "a folder":
        assert told["backbone"] == str(source)
    else:
        assert [told[name] for name in NETWORK] == [before[name] for name in NETWORK]


def test_inspect_shows_targets(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["inspect", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE]) == 0
    screen = capfd.readouterr().out
    for text in (
        "{[MASK]>",
        "padding",
        "targets among tokens",
        "unknown tokens",
        "near-duplicates",
        "longer than max_length",
    ):
        assert text in screen
    shares = re.findall(r"^targets (masked|replaced|kept as they are) +([\d.]+)%$", screen, re.MULTILINE)
    assert [what for what, _ in shares] == ["masked", "replaced", "kept as they are"]
    assert [float(share) for _, share in shares] == pytest.approx([80, 10, 10], abs=4)


@pytest.mark.parametrize("task", ["CausalLM", "PermutationLM"])
def test_inspect_speaks_of_masks_only_where_there_are_some(
    task: str, here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]
):
    assert main(["inspect", "--model", task, "--data.train", str(corpus), "--data.vocab_size=600"]) == 0
    screen = capfd.readouterr().out
    assert "targets among tokens" in screen
    assert "targets masked" not in screen


def test_list_names_everything_with_a_line(capfd: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    screen = capfd.readouterr().out
    for text in ("MaskedLM ", "MaskedLMData ", "Checkpoints ", *preset_names()):
        assert text in screen


def test_help_shows_the_task_first(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", "mlm", "--help"]) == 0
    screen = capfd.readouterr().out
    assert screen.index("--model.size") < screen.index("--data.train") < screen.index("--trainer.max_steps")
    assert "Share of the tokens that become targets in training. (default: 0.15)" in screen


def test_help_shows_how_values_are_written_and_what_the_preset_gives(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--config", "mlm", "--help"]) == 0
    screen = capfd.readouterr().out
    for line in (
        "Set already: --max_tokens 20000000",
        "  --model.size tiny|mini|small|medium|base|large",
        "  --model.betas NUMBER NUMBER",
        "  --data.train TEXT ...",
        "  --data.columns.NAME TEXT",
        "        Its size. (default: 30522)",
        "        The value at which to clip gradients. (default: 1.0)",
    ):
        assert line in screen.splitlines()
    assert "None" not in screen


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_only_its_own_flags(command: str, capfd: pytest.CaptureFixture[str]):
    assert main([command, "--help"]) == 0
    screen = capfd.readouterr().out
    assert ("--resume" in screen) == (command == "fit")
    assert ("--checkpoint" in screen) == (command in ("validate", "test", "predict", "export"))
    assert ("--model CLASS" in screen) == (command not in ("list", "export", "compare"))


def test_a_warning_is_one_line(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=2", "--run_dir=run") == 0
    newest = sorted((here / "run/checkpoints").glob("step=*.ckpt"))[-1]
    newest.write_bytes(b"torn")
    capfd.readouterr()
    program = [sys.executable, "-m", "ptm_lightning"]
    assert subprocess.run([*program, "fit", "--resume=run", "--trainer.max_steps=3"]).returncode == 0
    assert (
        "warning: run/checkpoints: this run starts from step 1; newer checkpoints are set aside as "
        "step=00000002.ckpt.old"
    ) in capfd.readouterr().err.splitlines()


def test_the_program_helps_itself(capfd: pytest.CaptureFixture[str]):
    assert main([]) == 0
    screen = capfd.readouterr().out
    assert all(f"  {command} " in screen for command in COMMANDS)


def test_dry_run_leaves_nothing(here: Path, corpus: Path):
    assert fit(corpus, "--trainer.max_steps=4", "--dry_run") == 0
    assert not (here / "runs").exists()


def test_init_from_another_tasks_run_takes_its_body(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    limits = ["--trainer.max_steps=1", "--run_dir=topics", "--model.learning_rate=1e-9", "--data.max_length=32"]
    assert main(["fit", "--config=classification", f"--init_from={trained}", *limits]) == 0
    said = f"--init_from {trained}: is an AutoModelForMaskedLM; starting from {trained / 'model'}"
    assert said in capfd.readouterr().err
    pretrained = AutoModelForMaskedLM.from_pretrained(trained / "model")
    tuned = AutoModelForSequenceClassification.from_pretrained(here / "topics" / "model")
    for name, weight in pretrained.bert.named_parameters():
        torch.testing.assert_close(tuned.bert.get_parameter(name), weight, atol=1e-6, rtol=0)


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_trains(here: Path, corpus: Path, preset: str):
    presets = ["--config", "default", "--config", preset] if preset == "wandb" else ["--config", preset]
    load_plugins()
    model = merge(read_layer(name).values for name in presets[1::2])["model"]
    task = find_class(model["class_path"], Task, "--model")
    architecture = model.get("architecture", task.architecture)
    size = f"--model.overrides={json.dumps((model.get('overrides') or {}) | tiny(architecture))}"
    limits = ["--trainer.max_steps=2", "--run_dir=run"]
    text = ["--data.train", str(corpus)] if issubclass(task.data_class, TextData) else []  # else its own example
    text += [f"--data.parts.general.train={corpus}"] if preset == "adapt" else []
    text += ["--data.max_target_length=12"] if preset in ("dialogue", "summarization_causal") else []
    assert main(["fit", *presets, *text, size, *DATA, *limits]) == 0
    if not text:
        assert main(["test", "--run_dir=run"]) == 0
        rows = [row for row in metrics(Path("run")) if row["metric"].startswith("val/")]
        assert {"0", "2"} <= {row["step"] for row in rows}


MISTAKES = [
    (["fitt"], "error: 'fitt' is no command; did you mean 'fit'?"),
    (["fit", "--config", "mlmm"], "error: --config mlmm: no such preset; did you mean 'mlm'?"),
    (["fit", "--config", "no.yaml"], "error: --config no.yaml: no such file"),
    (["fit", "--config", "broken.yaml"], "error: broken.yaml:2: not valid YAML: mapping values are not allowed here"),
    (["fit", "--config", "wrong.yaml"], "error: wrong.yaml:3: model.sise: model has no 'sise'; did you mean 'size'?"),
    (
        ["fit", "--model", "MaskdLM"],
        "error: --model MaskdLM: no such class; did you mean 'MaskedLM'? (a file of your own: --plugin FILE)",
    ),
    (["fit", "--model.sise", "tiny"], "error: --model.sise: model has no 'sise'; did you mean 'size'?"),
    (["fit", "--data.trian", "x"], "error: --data.trian: data has no 'trian'; did you mean 'train'?"),
    (
        ["fit", "--trainer.max_step", "3"],
        "error: --trainer.max_step: trainer has no 'max_step'; did you mean 'max_steps'?",
    ),
    (["fit", "--modle.size", "tiny"], "error: --modle.size: no such key; did you mean 'model'?"),
    (["fit", "--data.seed"], "error: --data.seed: give a value"),
    (["fit", "--model.size", "huge"], "error: --model.size huge: give tiny, mini, small, medium, base, large"),
    *(
        (
            ["fit", "--config", "mlm", "--model.backbone", "gone", flag, value],
            f"error: {flag}: --model.backbone gone brings its own {what}; leave one of them out",
        )
        for flag, value, what in (
            ("--model.size", "large", "network"),
            ("--model.architecture", "roberta", "network"),
            ("--model.overrides.hidden_size", "8", "network"),
            ("--data.vocab_size", "5000", "tokenizer"),
            ("--data.tokenizer_algorithm", "unigram", "tokenizer"),
        )
    ),
    (
        ["fit", "--config", "mlm", "--config", "mine.yaml", "--model.backbone", "gone"],
        "error: mine.yaml:3: model.size: --model.backbone gone brings its own network; leave one of them out",
    ),
    (
        ["fit", "--config", "mlm", "--data.tokenizer", "gone", "--data.vocab_size", "5000"],
        "error: --data.vocab_size: --data.tokenizer gone brings its own tokenizer; leave one of them out",
    ),
    (
        ["fit", "--init_from", "gone", "--data.vocab_size", "5000"],
        "error: --data.vocab_size: --init_from brings its own tokenizer; leave one of them out",
    ),
    (
        ["fit", "--config", "mlm", "--model.backbone", "./gone"],  # a preset's own size is no mistake
        "error: --model.backbone ./gone: no such folder",
    ),
    (["fit", "--trainer.max_steps", "many"], "error: --trainer.max_steps many: give a whole number"),
    (["fit", "--model.ema", "x"], "error: --model.ema x: give a number"),
    (["fit", "--data.columns", "text"], "error: --data.columns text: give names with values"),
    (
        ["fit", "--trainer.callbacks", "Foo"],
        "error: --trainer.callbacks Foo: no such class (python -m ptm_lightning list)",
    ),
    (["fit", "--config", "bytes.yaml"], "error: --config bytes.yaml: can't be read as text (REASON)"),
    (
        ["fit", "--data.train", "some.txt", "--data.train", "latin.txt"],
        "error: --data.train: is given twice; name all values after one",
    ),
    (["fit", "--max_hours", "0"], "error: --max_hours 0: give a number above 0, such as 0.5"),
    *(
        (["fit", "--max_tokens", value], f"error: --max_tokens {value}: give a number above 0, such as 20e6")
        for value in ("abc", "inf", "nan", "0.5")
    ),
    (["fit", "--config", "lots.yaml"], "error: --max_tokens lots: give a number above 0, such as 20e6"),
    (
        ["fit", "--data.train", "some.txt", "--trainer.accumulate_grad_batches=0"],
        "error: --trainer.accumulate_grad_batches 0: give 1 or more",
    ),
    (
        ["fit", "--model.learning_rate", "-1"],
        "error: --model.learning_rate -1.0: give a number above 0, such as 1e-4",
    ),
    (
        ["fit", "--model.ema", "2"],
        "error: --model.ema 2.0: give a decay of at least 0 and below 1, such as 0.999",
    ),
    (["fit", "--model.warmup", "-1"], "error: --model.warmup -1.0: give 0 or more"),
    (["fit", "--model.weight_decay", "-1"], "error: --model.weight_decay -1.0: give 0 or more"),
    (["fit", "--data.num_workers", "-1"], "error: --data.num_workers -1: give 0 or more"),
    (
        ["fit", "--data.weights", "-1"],
        "error: --data.weights: -1 draws nothing; give numbers above 0, or leave the source out",
    ),
    (
        ["fit", "--data.validation_share", "1.5"],
        "error: --data.validation_share 1.5: give one of at least 0 and below 1, such as 0.02",
    ),
    (
        ["fit", "--model.backbone", "nowhere"],
        "error: --model.backbone nowhere: no such folder, and no such model on the hub, or no network; "
        "give a folder with config.json and model.safetensors (REASON)",
    ),
    (["fit", "--plugin", "nowhere"], "error: --plugin nowhere: ModuleNotFoundError: No module named 'nowhere'"),
    (["list", "--foo"], "error: --foo: list has no such flag (python -m ptm_lightning list --help)"),
    (["fit", "--plugin", "none.py"], "error: --plugin none.py: no such file"),
    (["fit", "--data.mask_rate", "2"], "error: --data.mask_rate 2.0: give a share between 0 and 1, such as 0.15"),
    (
        ["fit", "--data.train", "some.txt", "--model.architecture", "brt"],
        "error: --model.architecture brt: no such architecture, did you mean 'bert'?",
    ),
    (
        ["fit", "--data.train", "missing.txt"],
        "error: --data.train: no file 'missing.txt'; did you mean 'latin.txt'?",
    ),
    (
        ["fit", "--data.train", "dangling.csv"],
        "error: --data.train: can't read 'dangling.csv' (No such file or directory); check it and its permissions",
    ),
    (["fit", "--data.train", "empty.txt"], "error: --data.train: 'empty.txt' is empty; fill it or leave it out"),
    (
        ["fit", "--data.train", "latin.txt"],
        "error: --data.train: latin.txt:2: byte 4 of the line (0xf6) is not UTF-8; "
        "convert it with iconv -f ITS_ENCODING -t UTF-8",
    ),
    *(
        (
            ["fit", "--model", task, "--data.train", "some.txt"],
            "error: --data.train: none of 93 documents has two sentences, so that no pair can be made; give longer "
            "documents (blank lines divide those of a .txt file; a sentence ends at . ! ? or at a line's end)",
        )
        for task in ("NextSentence", "SentenceOrder")
    ),
    (
        ["fit", "--model", "NextSentence", "--data.train", "essay.txt", "--data.validation", "two.txt"],
        "error: --data.train: a single document, so that no text is of another one; divide it "
        "(--data.split_text blank_line or line) or give more",
    ),
    (
        ["fit", "--model=SpanCorruption", "--data.train=some.txt", "--data.tokenizer=plain", "--data.max_length=32"],
        "error: --data.tokenizer: it has 0 sentinels (<extra_id_0>, ...), and rows of --data.max_length 32 need 2; "
        "take --data.tokenizer train or another with sentinels, shorter rows, or a longer --data.mean_span",
    ),
    (
        ["fit", "--model", "NextSentence", "--data.train", "two.txt", "--model.architecture", "roberta"],
        "error: --model.architecture roberta: NextSentence needs a head that transformers has for bert, big_bird, "
        "ernie, megatron-bert, mobilebert and not for roberta; take one of them, or --model MaskedLM",
    ),
    (
        ["fit", "--model", "PermutationLM", "--data.train", "some.txt", "--model.architecture", "gpt2"],
        "error: --model.architecture gpt2: can't predict in any order; give an xlnet, the only one that can",
    ),
    (
        ["fit", "--model", "CausalLM", "--data.train", "some.txt", "--model.architecture", "bert"],
        "error: --model.architecture bert: its predictions see later tokens; "
        "take a causal one, such as gpt2, llama or qwen3",
    ),
    (
        ["fit", "--model", "MaskedLM", "--data.train", "some.txt", "--model.architecture", "gpt2"],
        "error: --model.architecture gpt2: transformers has no ModelForMaskedLM of gpt2; "
        "take bert, roberta, albert, distilbert or another of REASON",
    ),
    (
        ["fit", "--model", "ReplacedTokenDetection", "--data.train", "some.txt", "--model.architecture", "bert"],
        "error: --model.architecture bert: replaced token detection needs electra",
    ),
    (
        ["fit", "--model", "PermutationLM", "--data.train", "some.txt", "--data.layout", "packed"],
        "error: --data.layout packed: XLNet can't keep documents in one row apart; take rows or blocks",
    ),
    (
        ["fit", "--model", "SpanCorruption", "--data.train", "some.txt", "--data.layout", "packed"],
        "error: --data.layout packed: an encoder-decoder can't isolate packed documents; "
        "use rows (a document in each) or blocks (one stream, cut)",
    ),
    *(
        (
            ["fit", "--model", task, "--data.train", "one.txt"],
            "error: --data.train: no document with text but those held out; give more, or --data.validation",
        )
        for task in ("CausalLM", "PermutationLM", "SpanCorruption", "Denoising", "ReplacedTokenDetection")
    ),
    (
        ["fit", "--data.train", "broken.jsonl"],
        "error: --data.train: broken.jsonl:2: broken JSON (Expecting value, column 9); repair the line",
    ),
    (
        ["fit", "--data.train", "column.jsonl"],
        "error: --data.train: column.jsonl:1: no column 'text'; the columns are body, number; "
        "name yours with --data.columns.text=body",
    ),
    (
        ["fit", "--data.train", "blank.jsonl"],
        "error: --data.tokenizer train: --data.train holds no text to train a tokenizer on",
    ),
    (
        ["fit", "--data.train", "one.txt"],
        "error: --data.train: no document with text but those held out; give more, or --data.validation",
    ),
    (
        ["fit", "--data.train", "some.txt", "--trainer.accumulate_grad_batches=99"],
        "error: --data.train: the corpus is too small: 93 rows for an optimizer step of 99 micro-batches; "
        "give more text, or lower --trainer.accumulate_grad_batches or --trainer.devices",
    ),
    (
        ["fit", "--plugin", "broken.py"],
        "error: --plugin broken.py: HERE/broken.py:2: ModuleNotFoundError: No module named 'nothing'",
    ),
    (["fit", "--plugin", "syntax.py"], "error: --plugin syntax.py: HERE/syntax.py:2: SyntaxError: invalid syntax"),
    (
        ["fit", "--run_dir", "held"],
        f"error: run folder held is in use by process {os.getpid()} on {socket.gethostname()}; "
        "wait for it or choose another --run_dir",
    ),
    (["fit", "--resume", "nowhere"], "error: --resume nowhere: there is no run in it"),
    (["fit", "--resume"], "error: --resume: no unfinished run of default (MaskedLM) below runs; name its folder"),
    (
        ["predict", "--text", "x"],
        "error: --run_dir: there is no run below runs; train one with fit, or name its folder",
    ),
    (["validate", "--run_dir", "held"], "error: --run_dir held: there is no run in it"),
]


@pytest.fixture
def mess(here: Path) -> Path:
    (here / "broken.yaml").write_text("model:\n  size: tiny: mini\n")
    (here / "lots.yaml").write_text("model: MaskedLM\nmax_tokens: lots\n")
    (here / "bytes.yaml").write_bytes(b"model:\n  size: t\xefny\n")
    (here / "wrong.yaml").write_text("model:\n  class_path: MaskedLM\n  sise: tiny\n")
    (here / "mine.yaml").write_text("model:\n  class_path: MaskedLM\n  size: tiny\n")
    (here / "empty.txt").write_text("")
    (here / "latin.txt").write_bytes("first\nsch\xf6n\n".encode("latin-1"))
    (here / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (here / "column.jsonl").write_text('{"body": "some text", "number": 3}\n')
    (here / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    (here / "some.txt").write_text("\n\n".join(f"document {i} has the number {i * i}" for i in range(99)))
    (here / "two.txt").write_text("\n\n".join(f"Document {i} begins. It has the number {i * i}." for i in range(99)))
    (here / "essay.txt").write_text("It has one sentence. It has another one. And a third.\n")
    train_tokenizer(["document has the number 0123456789"], "unigram", 60, 32).save_pretrained(here / "plain")
    (here / "one.txt").write_text("one single document of a few words\n")
    (here / "dangling.csv").symlink_to("gone.txt")
    (here / "broken.py").write_text("import json\nimport nothing\n")
    (here / "syntax.py").write_text("import json\nimport import\n")
    return here


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=[" ".join(arguments) for arguments, _ in MISTAKES])
def test_a_mistake_gets_one_clear_message(
    mess: Path, arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
):
    with RunLock(mess / "held"):
        before = {path: path.is_file() and path.read_bytes() for path in mess.rglob("*")}
        assert main([*arguments, *(SIZE[1:] if "--data.train" in arguments else [])]) == 2
        assert {path: path.is_file() and path.read_bytes() for path in mess.rglob("*")} == before
    screen = capfd.readouterr().err
    expected = re.escape(message.replace("HERE", str(mess))).replace("REASON", ".*")
    assert re.fullmatch(expected, screen.strip().splitlines()[-1])
    assert "Traceback" not in screen
