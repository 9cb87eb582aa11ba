"""Going on from a pretrained model: a run of `--config adapt`, from the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from ptm_lightning.tasks import MaskedLM, MaskedLMData
from transformers import AutoModelForMaskedLM, AutoTokenizer

from ptm_lightning.__main__ import main
from ptm_lightning.checkpoint import load_checkpoint, step_files
from ptm_lightning.data.token_bytes import bytes_by_id
from ptm_lightning.run import read_config
from ptm_lightning.summary import gains, read_metrics
from ptm_lightning.testing_case import tiny

LIMITS = ["--trainer.accelerator=cpu", "--data.batch_tokens=256", "--data.max_length=48", "--data.validation_share=0.1"]
DOMAIN = [
    f"The debhelper of reportbug number {i} wants dpkg-buildpackage and debhelper compat {i % 9}." for i in range(90)
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, corpus: Path, cache: Path) -> Path:
    """A folder with texts, a run of masked language modelling, its model, and an adaptation of that."""
    folder = tmp_path_factory.mktemp("adapt")
    (folder / "domain.txt").write_text("\n\n".join(DOMAIN))
    (folder / "general.txt").write_text(corpus.read_text())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        patch.chdir(folder)
        size = f"--model.overrides={json.dumps(tiny('bert'))}"
        masked = ["--model=MaskedLM", "--data.train=general.txt", "--data.vocab_size=600", size]
        assert main(["fit", *masked, "--trainer.max_steps=8", "--run_dir=masked", *LIMITS]) == 0
        assert main(adapt("masked/model")) == 0
    return folder


def adapt(start: str, *more: str, run: str = "adapted", words: str = "5") -> list[str]:
    parts = ["--data.train", "domain.txt", "--data.parts.general.train", "general.txt", "--data.new_words", words]
    every = ["--trainer.val_check_interval=2", "--trainer.log_every_n_steps=2", "--model.learning_rate=0.01"]
    ends = ["--trainer.max_steps=6", "--run_dir", run]
    return ["fit", "--config", "adapt", "--init_from", start, *parts, *LIMITS, *every, *ends, *more]


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def end(run: str) -> dict[str, Any]:
    return load_checkpoint(list(step_files(Path(run) / "checkpoints").values())[-1])


def test_the_table_says_what_was_gained_and_forgotten(place: Path) -> None:
    metrics = read_metrics(Path("adapted"))
    lines = gains(metrics)
    assert lines[0].split() == ["bits", "per", "byte", "start", "end", "gained", "forgotten"]
    assert [line.split()[0] for line in lines[1:]] == ["domain", "general"]
    for line in lines[1:]:
        part, start, finish, change = line.split()
        assert float(start) == pytest.approx(metrics[f"start/{part}/bits_per_byte"][0], abs=1e-4)
        assert float(finish) == pytest.approx(metrics[f"val/{part}/bits_per_byte"][6], abs=1e-4)
        assert float(change) == pytest.approx(abs(float(start) - float(finish)), abs=2e-4)
        forgotten = float(finish) > float(start)
        assert len(line) == (70 if forgotten else 58)


@pytest.mark.parametrize(("part", "text"), [("domain", "domain.txt"), ("general", "general.txt")])
def test_the_start_is_the_untouched_model_with_its_own_tokenizer(part: str, text: str) -> None:
    data = MaskedLMData(train=[text], masking="word", max_length=48, batch_tokens=256, validation_share=0.1)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    untouched = Trainer(accelerator="cpu", **silent).validate(MaskedLM(backbone="masked/model"), data, verbose=False)[0]
    metrics = read_metrics(Path("adapted"))
    for name, value in untouched.items():
        assert metrics[name.replace("val/", f"start/{part}/")][0] == pytest.approx(value, rel=1e-4)
    assert metrics[f"val/{part}/bits_per_byte"][0] != pytest.approx(untouched["val/bits_per_byte"], rel=1e-6)


def test_bits_per_byte_of_masked_words_come_from_loss_and_bytes() -> None:
    """Mean loss of a target times targets, over their bytes."""
    data = MaskedLMData(train=["general.txt"], masking="word", max_length=48, batch_tokens=256, validation_share=0.1)
    silent = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    metrics = Trainer(accelerator="cpu", **silent).validate(MaskedLM(backbone="masked/model"), data, verbose=False)[0]
    table = bytes_by_id(data.hf_tokenizer, data.corpus.validation)
    targets = torch.cat([batch["targets"] for batch in data.val_dataloader()])
    bits = metrics["val/loss"] / torch.tensor(2.0).log().item() * len(targets) / table[targets].sum()
    assert metrics["val/bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_the_model_that_comes_out_has_the_words(place: Path) -> None:
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in ("masked/model", "adapted/model"))
    assert len(new) == len(old) + 5
    assert new.tokenize("the debhelper") == [*old.tokenize("the"), "debhelper"]
    network = AutoModelForMaskedLM.from_pretrained("adapted/model")
    assert network.config.vocab_size == len(new) == network.get_input_embeddings().weight.shape[0]


def test_the_config_tells_the_network(place: Path) -> None:
    config = read_config(Path("adapted"))
    assert (config["init_from"], config["model"]["backbone"]) == ("masked/model", "masked/model")
    assert main(adapt("masked", "--data.parts.domain.masking=token", run="from_run", words="3")) == 0
    config, masked = read_config(Path("from_run")), read_config(Path("masked"))
    assert (config["init_from"], config["model"]["backbone"]) == ("masked", None)
    assert config["model"]["overrides"] == masked["model"]["overrides"]
    assert end("from_run")["hyper_parameters"]["overrides"] == masked["model"]["overrides"]
    assert config["data"]["parts"]["domain"] == {"task": "MaskedLM", "weight": 0.8, "masking": "token"}
    assert (
        len(AutoTokenizer.from_pretrained("from_run/model")) == len(AutoTokenizer.from_pretrained("masked/model")) + 3
    )


@pytest.mark.parametrize("start", ["masked/model", "masked"])
def test_resume_is_bit_identical_without_what_was_started_from(start: str, tmp_path: Path, place: Path) -> None:
    copy, whole, again = (str(tmp_path / name) for name in ("copy", "whole", "again"))
    shutil.copytree(start, copy)
    assert main(adapt(copy, run=whole)) == 0
    shutil.rmtree(copy)
    shutil.copytree(whole, again)
    step_files(Path(again) / "checkpoints")[6].unlink()
    assert main(["fit", "--resume", again]) == 0
    for name, value in end(whole)["state_dict"].items():
        assert torch.equal(value, end(again)["state_dict"][name]), name
    assert end(again)["ptm_lightning"]["link"] == end(whole)["ptm_lightning"]["link"]
    records = [
        [line for line in Path(run, "metrics.csv").read_text().splitlines() if "speed/" not in line]
        for run in (whole, again)
    ]
    assert records[0] == records[1]


def test_validate_takes_the_run_s_tokenizer(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--run_dir", "adapted", "--checkpoint", "last"]) == 0
    shown = dict(re.findall(r"^(val/\S+) +([\d.]+)$", capfd.readouterr().out, re.MULTILINE))
    metrics = read_metrics(Path("adapted"))
    for part in ("domain", "general"):
        name = f"val/{part}/bits_per_byte"
        assert float(shown[name]) == pytest.approx(metrics[name][6], abs=1e-3)


def test_an_adapted_model_is_adapted_again() -> None:
    Path("words.txt").write_text("reportbug\ncompat\n")
    assert main(adapt("adapted", run="once_more", words="words.txt")) == 0
    old, new = (AutoTokenizer.from_pretrained(folder) for folder in ("adapted/model", "once_more/model"))
    assert {"compat"} <= new.get_vocab().keys() - old.get_vocab().keys() <= {"compat", "reportbug"}
    assert list(end("once_more")["ptm_lightning"]["link"]["new_tokens"])[-1] == "compat"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data.train", "domain.txt"], "--data.parts.general.train: give a source, for the part general"),
        (["--data.parts.general.train", "general.txt"], "--data.train: give a source, for the part domain"),
        (["--data.parts.genral.train", "general.txt"], "--data.parts.genral: say its task"),
        (["--data.new_words=0"], "--data.new_words 0: give a number of words from 1 on"),
        (["--data.new_words=nowhere.txt"], "--data.new_words nowhere.txt: can't be read; give a number, or a file"),
        (["--data.new_words=5", "--data.tokenizer=masked/model"], "--data.new_words 5: extends the tokenizer of"),
    ],
)
def test_what_is_refused(arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    sources = ["--data.train=domain.txt", "--data.parts.general.train=general.txt"]
    given = [*sources, *arguments] if "new_words" in arguments[0] else arguments
    assert main(["fit", "--config=adapt", "--init_from=masked/model", *LIMITS, "--run_dir=refused", *given]) == 2
    assert capfd.readouterr().err.splitlines()[-1].startswith(f"error: {message}")
    assert not Path("refused").exists()


def test_new_words_want_a_pretrained_model(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--model=MaskedLM", "--data.train=domain.txt", "--data.new_words=5", "--run_dir=refused"]) == 2
    assert "--data.new_words 5: extends the tokenizer of a pretrained model; start from one with --init_from" in (
        capfd.readouterr().err
    )


def test_help_and_check_and_inspect_know_the_parts(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config=adapt", "--help"]) == 0
    assert "--data.parts.NAME.NAME VALUE" in capfd.readouterr().out
    common = ["--config=adapt", "--data.train=domain.txt", "--data.parts.general.train=general.txt", *LIMITS]
    size = ["--data.vocab_size=600", "--model.size=tiny"]
    assert main(["inspect", *common, *size]) == 0
    shown = capfd.readouterr().out
    assert "--- the text of domain" in shown
    assert "--- the text of general" in shown
    assert main(["check", *common, *size]) == 0
    shown = capfd.readouterr().out
    assert re.search(r"^ok +domain: ", shown, re.MULTILINE)
    assert re.search(r"^ok +general: ", shown, re.MULTILINE)
