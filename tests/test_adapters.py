"""Fine-tuning with adapters (LoRA): the contract, the command line, rates by layer, and what is refused."""

import json
from pathlib import Path

import peft
import pytest
import torch
from ptm_lightning.tasks import SequenceClassification, Summarization
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from ptm_lightning.__main__ import main
from ptm_lightning.checkpoint import best, load_checkpoint
from ptm_lightning.export import export
from ptm_lightning.finetuning import LORA_RATE
from ptm_lightning.models.lora import is_adapter
from ptm_lightning.testing import (
    accumulation_is_equal,
    check_task,
    export_is_equal,
    fits,
    loads_without_data,
    resume_is_equal,
)
from ptm_lightning.testing_case import Case, quiet, tiny
from ptm_lightning.testing_texts import example, write_texts

CLAUSES = [fits, accumulation_is_equal, resume_is_equal, loads_without_data, export_is_equal]
LIMITS = ["--trainer.accelerator=cpu", "--trainer.max_steps=3", "--data.train=rows.jsonl", "--data.max_length=24"]
FIT = ["fit", "--config=classification", *LIMITS]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder with rows, `whole`, a run of all weights, and `lora`, one with adapters on its model."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "rows.jsonl").write_text("".join(json.dumps(example(i)) + "\n" for i in range(60)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTM_CACHE", str(cache))
        patch.chdir(folder)
        size = f"--model.overrides={json.dumps(tiny('bert') | {'num_hidden_layers': 2})}"
        assert main([*FIT, size, "--data.vocab_size=300", "--run_dir=whole"]) == 0
        assert main([*FIT, "--init_from=whole/model", "--model.lora_rank=4", "--run_dir=lora"]) == 0
    return folder


@pytest.fixture(autouse=True)
def there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def logits(network: torch.nn.Module, folder: str) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(folder)(["The cat sees a dog .", "A dog ."], return_tensors="pt", padding=True)
    with torch.inference_mode():
        result: torch.Tensor = network.eval()(**ids).logits
    return result


def loaded(run: str) -> SequenceClassification:
    path = best(Path(run) / "checkpoints")
    return SequenceClassification.load_from_checkpoint(path, map_location="cpu", weights_only=True).eval()


@pytest.mark.parametrize("task", [SequenceClassification, Summarization])
def test_the_contract(task: type[SequenceClassification], tmp_path: Path):
    case = Case(
        task, tmp_path, {"overrides": tiny(task.architecture)}, write_texts(tmp_path / "texts", labelled=True), {}
    )
    with quiet():
        backbone = str(export(case.trained[1], tmp_path / "backbone", task, settings={}))
    arguments = {"backbone": backbone, "overrides": None, "lora_rank": 2, "lora_dropout": 0.2, "learning_rate": 0.01}
    if task is Summarization:
        arguments["max_new_tokens"] = 8
    check_task(task, arguments=arguments, clauses=CLAUSES[:3] if task is Summarization else CLAUSES)


def test_transformers_alone_loads_the_merged_model():
    network = AutoModelForSequenceClassification.from_pretrained("lora/model")
    start = AutoModelForSequenceClassification.from_pretrained("whole/model")
    task = loaded("lora")
    assert any(is_adapter(name) for name, _ in task.network.named_parameters())
    torch.testing.assert_close(logits(network, "lora/model"), logits(task.network, "lora/model"), atol=1e-6, rtol=0)
    changed = {name for name, weight in network.state_dict().items() if not weight.equal(start.state_dict()[name])}
    assert all("encoder" in name or "pooler" in name or "classifier" in name for name in changed)
    assert "bert.encoder.layer.1.attention.self.query.weight" in changed
    assert "bert.encoder.layer.1.attention.self.query.bias" not in changed


def test_the_optimizer_has_only_what_trains():
    saved = load_checkpoint(best(Path("lora") / "checkpoints"))
    state = saved["optimizer_states"][0]
    trained = {name for name, p in loaded("lora").named_parameters() if p.requires_grad}
    assert len(state["state"]) == len(trained)
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(trained)
    assert {name.split(".")[-2] for name in trained if not is_adapter(name)} == {"dense", "classifier"}
    assert all(is_adapter(name) or "pooler" in name or "classifier" in name for name in trained)


def test_the_adapters_beside_the_model(tmp_path: Path):
    folder = tmp_path / "out"
    assert main(["export", "--run_dir=lora", "--adapter", f"--output={folder}"]) == 0
    start = AutoModelForSequenceClassification.from_pretrained("whole/model")
    adapted = peft.PeftModel.from_pretrained(start, folder / "adapter")
    merged = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.testing.assert_close(logits(adapted, "whole/model"), logits(merged, "whole/model"), atol=1e-6, rtol=0)
    assert (
        json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "whole/model"
    )


def test_rates_by_layer_and_frozen_layers(tmp_path: Path):
    settings = ["--init_from=whole/model", "--model.lora_rank=2", "--model.layer_decay=0.5", "--model.frozen_layers=1"]
    assert main([*FIT, *settings, "--model.learning_rate=0.08", f"--run_dir={tmp_path / 'run'}"]) == 0
    task = loaded(str(tmp_path / "run"))
    assert loaded("lora").peak_rate == LORA_RATE
    rates = {id(p): group["lr"] for group in task.build_optimizer().param_groups for p in group["params"]}
    by_name = {name: rates[id(p)] for name, p in task.network.named_parameters() if id(p) in rates}
    assert {rate for name, rate in by_name.items() if is_adapter(name)} == {0.04}
    assert {rate for name, rate in by_name.items() if "classifier" in name} == {0.08}
    assert all(".layer.1." in name for name in by_name if is_adapter(name))
    seconds = {name: p for name, p in task.network.named_parameters() if is_adapter(name) and "lora_B" in name}
    assert {bool(p.any()) for name, p in seconds.items() if ".layer.0." in name} == {False}
    assert {bool(p.any()) for name, p in seconds.items() if ".layer.1." in name} == {True}


@pytest.mark.parametrize(
    ("run", "more", "said"),
    [
        ("whole", ["--model.lora_rank=2"], "--init_from whole: gets adapters; starting from whole/model"),
        ("lora", [], "--init_from lora: has adapters, which are merged in its export; starting from lora/model"),
    ],
)
def test_from_a_run(run: str, more: list[str], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    settings = [f"--init_from={run}", "--model.learning_rate=1e-9", f"--run_dir={tmp_path / 'run'}", *more]
    assert main([*FIT, *settings, "--trainer.max_steps=1"]) == 0
    screen = capfd.readouterr().err
    assert said in screen.splitlines()
    assert ("are trained" in screen) == (run == "whole")
    start = AutoModelForSequenceClassification.from_pretrained(f"{run}/model")
    end = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    torch.testing.assert_close(logits(end, f"{run}/model"), logits(start, f"{run}/model"), atol=1e-5, rtol=0)


MISTAKES = [
    (["--model.lora_rank=2"], "--model.lora_rank: adapts a pretrained network; give --init_from or --model.backbone"),
    (["--model.lora_rank=-1"], "--model.lora_rank -1: give 1 or more, such as 8"),
    (["--model.lora_alpha=2"], "--model.lora_alpha: only adapters have one; give --model.lora_rank too"),
    (["--model.lora_rank=2", "--model.lora_alpha=0"], "--model.lora_alpha 0.0: give a number above 0, such as 16"),
    (["--model.lora_targets", "query"], "--model.lora_targets: only adapters have one; give --model.lora_rank too"),
    (
        ["--model.lora_rank=2", "--model.lora_dropout=1"],
        "--model.lora_dropout 1.0: give a share below 1, such as 0.1",
    ),
    (
        ["--init_from=whole/model", "--model.lora_rank=2", "--model.lora_targets", "query", "valu"],
        "--model.lora_targets valu: no such linear layer; did you mean 'value'?",
    ),
    (
        ["--init_from=whole/model", "--model.lora_rank=2", "--model.frozen_layers=-1"],
        "--model.frozen_layers -1: leaves no adapter to learn; give fewer",
    ),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=[" ".join(flags) for flags, _ in MISTAKES])
def test_what_makes_no_sense_is_refused(
    flags: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    assert main([*FIT, *flags, f"--run_dir={tmp_path / 'run'}"]) == 2
    assert capfd.readouterr().err.strip().splitlines()[-1] == f"error: {message}"
    assert not (tmp_path / "run").exists()


def test_a_run_without_adapters_exports_none(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    assert main(["export", "--run_dir=whole", "--adapter", f"--output={tmp_path / 'out'}"]) == 2
    assert "error: --adapter: the run has none; train it with --model.lora_rank" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
