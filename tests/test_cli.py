"""The command line, driven in-process on a tiny corpus."""

import csv
import json
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ptm_lightning.__main__ import COMMANDS, main
from ptm_lightning.presets import preset_names
from ptm_lightning.run import read_config, read_state

SIZE = [
    "--model.overrides={hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 64}",
    "--data.vocab_size=600",
    "--data.max_length=32",
    "--data.batch_tokens=512",
    "--data.validation_share=0.1",
    "--trainer.accelerator=cpu",
]


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


def test_resume_refuses_another_setting_with_both_values(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert fit(corpus, "--trainer.max_steps=2", "--run_dir=run") == 0
    capfd.readouterr()
    assert main(["fit", "--resume", "run", "--model.learning_rate=0.5"]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: --model.learning_rate: 0.5 now, 0.001 in run; leave it out to go on")


def test_validate_and_predict_with_the_run(trained: Path, here: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["validate", "--run_dir", str(trained)]) == 0
    assert "val/perplexity" in capfd.readouterr().out
    assert main(["predict", "--run_dir", str(trained), "--text", "the [MASK] of it"]) == 0
    row = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert row["text"] == "the [MASK] of it"
    assert len(row["guesses"][0]) == 5


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


def test_init_from_takes_the_weights(trained: Path, here: Path, corpus: Path):
    checkpoint = next((trained / "checkpoints").glob("*.ckpt"))
    assert fit(corpus, "--init_from", str(checkpoint), "--trainer.max_steps=1", "--run_dir=run") == 0
    first = [float(row["value"]) for row in metrics(trained) if row["metric"] == "val/loss"]
    begun = [float(row["value"]) for row in metrics(here / "run") if row["metric"] == "val/loss"]
    assert begun[0] < first[0]


def test_inspect_shows_targets(here: Path, corpus: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["inspect", "--model", "MaskedLM", "--data.train", str(corpus), *SIZE]) == 0
    screen = capfd.readouterr().out
    for text in (
        "{[MASK]>",
        "padding",
        "targets among tokens",
        "unknown tokens",
        "near-duplicates",
        "cut into several",
    ):
        assert text in screen


def test_list_names_everything_with_a_line(capfd: pytest.CaptureFixture[str]):
    assert main(["list"]) == 0
    screen = capfd.readouterr().out
    for text in ("MaskedLM ", "MaskedLMData ", "Checkpoints ", *preset_names()):
        assert text in screen


def test_help_shows_the_task_first(capfd: pytest.CaptureFixture[str]):
    assert main(["fit", "--help"]) == 0
    screen = capfd.readouterr().out
    assert screen.index("--model.size") < screen.index("--data.train") < screen.index("--trainer.max_steps")
    assert "Share of the tokens that become targets in training. (default: 0.15)" in screen


def test_the_program_helps_itself(capfd: pytest.CaptureFixture[str]):
    assert main([]) == 0
    screen = capfd.readouterr().out
    assert all(f"  {command} " in screen for command in COMMANDS)


def test_dry_run_leaves_nothing(here: Path, corpus: Path):
    assert fit(corpus, "--trainer.max_steps=4", "--dry_run") == 0
    assert not (here / "runs").exists()


@pytest.mark.parametrize("preset", [name for name in preset_names() if name not in ("base", "evaluate")])
def test_every_preset_trains(here: Path, corpus: Path, preset: str):
    presets = ["--config", "default", "--config", preset] if preset == "wandb" else ["--config", preset]
    limits = ["--trainer.max_steps=2", "--run_dir=run"]
    assert main(["fit", *presets, "--data.train", str(corpus), *SIZE, *limits]) == 0


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
    (["fit", "--plugin", "none.py"], "error: --plugin none.py: no such file"),
    (["fit", "--data.mask_rate", "2"], "error: --data.mask_rate 2.0: give a share between 0 and 1, such as 0.15"),
    (["fit", "--data.train", "some.txt", "--model.architecture", "brt"], None),
    (["fit", "--data.train", "missing.txt"], None),
    (["fit", "--data.train", "empty.txt"], None),
    (["fit", "--data.train", "latin.txt"], None),
    (["fit", "--data.train", "broken.jsonl"], None),
    (["fit", "--data.train", "column.jsonl"], None),
    (["fit", "--data.train", "blank.jsonl"], None),
    (["fit", "--data.train", "one.txt"], None),
    (["fit", "--run_dir", "held"], None),
    (["fit", "--resume", "nowhere"], None),
    (["fit", "--resume"], "error: --resume: no unfinished run of default (MaskedLM) below runs; name its folder"),
    (
        ["predict", "--text", "x"],
        "error: --run_dir: there is no run below runs; train one with fit, or name its folder",
    ),
    (["validate", "--run_dir", "held", "--checkpoint", "foreign.ckpt"], None),
]
PARTS = {
    "brt": ["--model.architecture", "did you mean", "bert"],
    "missing.txt": ["--data.train", "missing.txt"],
    "empty.txt": ["--data.train", "empty.txt", "empty"],
    "latin.txt": ["latin.txt:2", "UTF-8", "iconv"],
    "broken.jsonl": ["broken.jsonl:2"],
    "column.jsonl": ["column.jsonl:1", "body", "--data.columns.text=body"],
    "blank.jsonl": ["--data.train", "no text"],
    "one.txt": ["--data.train", "--data.validation"],
    "held": ["run folder held is in use"],
    "nowhere": ["nowhere"],
    "foreign.ckpt": ["held"],
}


@pytest.fixture
def mess(here: Path) -> Path:
    (here / "broken.yaml").write_text("model:\n  size: tiny: mini\n")
    (here / "wrong.yaml").write_text("model:\n  class_path: MaskedLM\n  sise: tiny\n")
    (here / "empty.txt").write_text("")
    (here / "latin.txt").write_bytes("first\nsch\xf6n\n".encode("latin-1"))
    (here / "broken.jsonl").write_text('{"text": "a"}\n{"text": \n')
    (here / "column.jsonl").write_text('{"body": "some text"}\n')
    (here / "blank.jsonl").write_text('{"text": " "}\n{"text": ""}\n')
    (here / "some.txt").write_text("\n\n".join(f"document {i} has the number {i * i}" for i in range(99)))
    (here / "one.txt").write_text("one single document of a few words\n")
    (here / "foreign.ckpt").write_bytes(b"no checkpoint")
    return here


@pytest.mark.parametrize(
    ("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_mistake_gets_one_clear_message(
    mess: Path, arguments: list[str], message: str | None, capfd: pytest.CaptureFixture[str]
):
    from ptm_lightning.run import RunLock

    before = {path: path.read_bytes() for path in mess.iterdir() if path.is_file()}
    with RunLock(mess / "held"):
        assert main([*arguments, *(SIZE[1:] if arguments[-1] in PARTS and arguments[0] == "fit" else [])]) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "Traceback" not in last
    assert last.startswith("error: ")
    if message is not None:
        assert last == message
    for part in PARTS.get(arguments[-1], []):
        assert part in last, last
    assert before == {path: path.read_bytes() for path in mess.iterdir() if path in before}
