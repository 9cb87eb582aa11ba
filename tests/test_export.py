"""The exported folder, read by transformers alone in a process of its own; and what stands when exporting fails."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
import transformers
from ptm_lightning.tasks import (
    CausalLM,
    Denoising,
    MaskedLM,
    NextSentence,
    PermutationLM,
    ReplacedTokenDetection,
    SentenceOrder,
    SpanCorruption,
)
from safetensors import SafetensorError, safe_open
from transformers import BertForMaskedLM, PreTrainedModel

import ptm_lightning.export
from ptm_lightning.checkpoint import SafeCheckpointIO
from ptm_lightning.data.tokenizer import to_text
from ptm_lightning.data.tokenizer_training import Algorithm, train_tokenizer
from ptm_lightning.errors import UserError
from ptm_lightning.export import MARKER, export
from ptm_lightning.link import Link
from ptm_lightning.task import Task
from ptm_lightning.testing_case import tiny

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT = "the cat sat on the mat and the dog sat on the cat, so the mat was not the place to be for a cat or a dog. "
ROLES = ("pad", "mask", "cls", "sep", "bos", "eos", "unk")

READER = """
import sys, torch, transformers
torch.set_num_threads(1)
from transformers import AutoTokenizer, pipeline
folders, output = sys.argv[1:-1], sys.argv[-1]
found = {}
for folder in folders:
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    pipe = pipeline("fill-mask", model=folder)
    mask = pipe.tokenizer.mask_token
    texts = [f"the {mask} sat on the mat", "a dog"]
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits
    found[folder] = {"ids": batch["input_ids"], "mask": batch["attention_mask"], "logits": logits,
                     "guesses": [(each["token"], each["score"]) for each in pipe(f"the {mask} sat on the mat")]}
    card = open(f"{folder}/README.md").read()
    exec(card.split("```python")[1].split("```")[0].replace("path/to/this/folder", folder))
assert not [name for name in sys.modules if name.startswith(("ptm_lightning", "lightning"))]
torch.save(found, output)
"""


READER_OF_ALL = """
import json, sys, torch, transformers
torch.set_num_threads(1)
classes, output = json.loads(sys.argv[1]), sys.argv[2]
inputs = torch.load(sys.argv[3])
found = {}
for folder, auto_class in classes.items():
    assert transformers.AutoTokenizer.from_pretrained(folder)("the cat")["input_ids"]
    model = getattr(transformers, auto_class).from_pretrained(folder).eval()
    more = {"decoder_input_ids": inputs["input_ids"].flip(1)} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        outputs = {name: value for name, value in model(**inputs, **more).items() if torch.is_tensor(value)}
    generated = None
    if model.config.model_type in ("gpt2", "t5", "bart"):
        generated = model.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
    found[folder] = {"class": type(model).__name__, "outputs": outputs, "generated": generated}
assert not [name for name in sys.modules if name.startswith(("ptm_lightning", "lightning"))]
torch.save(found, output)
"""


class Objective(NamedTuple):
    """An objective, and what transformers shall load of it."""

    task: type[Task]
    architecture: str
    algorithm: Algorithm
    auto_class: str
    network_class: str


OBJECTIVES = [
    Objective(MaskedLM, "roberta", "bpe", "AutoModelForMaskedLM", "RobertaForMaskedLM"),
    Objective(NextSentence, "bert", "wordpiece", "AutoModelForPreTraining", "BertForPreTraining"),
    Objective(SentenceOrder, "albert", "unigram", "AutoModelForPreTraining", "AlbertForPreTraining"),
    Objective(ReplacedTokenDetection, "electra", "wordpiece", "AutoModelForPreTraining", "ElectraForPreTraining"),
    Objective(PermutationLM, "xlnet", "xlnet", "AutoModelForCausalLM", "XLNetLMHeadModel"),
    Objective(CausalLM, "gpt2", "gpt2", "AutoModelForCausalLM", "GPT2LMHeadModel"),
    Objective(SpanCorruption, "t5", "unigram", "AutoModelForSeq2SeqLM", "T5ForConditionalGeneration"),
    Objective(Denoising, "bart", "bpe", "AutoModelForSeq2SeqLM", "BartForConditionalGeneration"),
]


class TextGeneration(Task):
    """A causal model, which has a generation config."""

    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    data_class = MaskedLM.data_class


class Labels(Task):
    """Classifies texts."""

    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    data_class = MaskedLM.data_class


def link(algorithm: Algorithm = "wordpiece", **more: Any) -> Link:
    tokenizer = train_tokenizer([TEXT] * 5, algorithm, 320, 24)
    text, config = to_text(tokenizer)
    ids = {role: getattr(tokenizer, f"{role}_token_id") for role in ROLES}
    return Link(text, config, vocabulary=len(tokenizer), special_ids=ids, max_length=24, **more)


def trained(task: Task, its_link: Link, path: Path) -> tuple[PreTrainedModel, Path]:
    """The network and the checkpoint of a task that has met its data; the weights are random, biases too."""
    task.link = its_link
    task.configure_model()
    network = task.network
    assert network is not None
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    save(task, path)
    return network.eval(), path


def save(task: Task, path: Path, **more: Any) -> None:
    checkpoint: dict[str, Any] = {"global_step": 7, "epoch": 0, "pytorch-lightning_version": "2.6.6"}
    checkpoint |= {"state_dict": task.state_dict(), "hyper_parameters": dict(task.hparams)} | more
    task.on_save_checkpoint(checkpoint)
    SafeCheckpointIO().save_checkpoint(checkpoint, path)


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=torch.arange(20).view(2, 10)).logits
    return found


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return trained(MaskedLM(overrides=TINY), link(), tmp_path / "run" / "checkpoints" / "step=00000007.ckpt")[1]


@pytest.fixture
def earlier(checkpoint: Path, tmp_path: Path) -> dict[str, bytes]:
    """The files of an export at `tmp_path / "model"`."""
    return contents(export(checkpoint, tmp_path / "model", MaskedLM))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def no_litter(folder: Path) -> bool:
    return not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_transformers_alone_gives_the_same_logits_and_guesses(tmp_path: Path):
    networks: dict[str, PreTrainedModel] = {}
    algorithms: dict[str, Algorithm] = {
        "bert": "wordpiece", "roberta": "bpe", "modernbert": "wordpiece",
    }  # fmt: skip
    for architecture, algorithm in algorithms.items():
        task = MaskedLM(architecture=architecture, overrides=TINY)
        network, path = trained(task, link(algorithm), tmp_path / f"{architecture}.ckpt")
        networks[str(export(path, tmp_path / architecture, MaskedLM))] = network
    output = tmp_path / "found.pt"
    command = [sys.executable, "-I", "-c", READER, *networks, str(output)]
    reader = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, reader.stderr
    for folder, found in torch.load(output).items():
        network = networks[folder]
        with torch.no_grad():
            ours = network(input_ids=found["ids"], attention_mask=found["mask"]).logits
            row = network(input_ids=found["ids"][:1]).logits[0]
        torch.testing.assert_close(found["logits"], ours, rtol=0, atol=1e-5)
        mask_id = transformers.AutoTokenizer.from_pretrained(folder).mask_token_id
        scores = row[found["ids"][0] == mask_id][0].softmax(-1).topk(5)
        assert [token for token, _ in found["guesses"]] == scores.indices.tolist()
        assert [score for _, score in found["guesses"]] == pytest.approx(scores.values.tolist(), abs=1e-5)


def test_transformers_alone_loads_each_objective(tmp_path: Path):
    networks: dict[str, PreTrainedModel] = {}
    for objective in OBJECTIVES:
        name = objective.task.__name__
        task = objective.task(architecture=objective.architecture, overrides=tiny(objective.architecture))
        network, path = trained(task, link(objective.algorithm), tmp_path / f"{name}.ckpt")
        networks[str(export(path, tmp_path / name, objective.task))] = network
    classes = {folder: objective.auto_class for folder, objective in zip(networks, OBJECTIVES, strict=True)}
    inputs = {"input_ids": torch.arange(6, 26).view(2, 10), "attention_mask": torch.ones(2, 10, dtype=torch.long)}
    torch.save(inputs, tmp_path / "inputs.pt")
    files = [str(tmp_path / "found.pt"), str(tmp_path / "inputs.pt")]
    command = [sys.executable, "-I", "-c", READER_OF_ALL, json.dumps(classes), *files]
    reader = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, reader.stderr
    answers = 0
    for (folder, theirs), objective in zip(torch.load(files[0]).items(), OBJECTIVES, strict=True):
        assert theirs["class"] == objective.network_class
        network: Any = networks[folder]
        both_sides = network.config.is_encoder_decoder
        with torch.no_grad():
            ours = network(**inputs, **({"decoder_input_ids": inputs["input_ids"].flip(1)} if both_sides else {}))
        assert any("logits" in name for name in theirs["outputs"])
        for name, value in theirs["outputs"].items():
            torch.testing.assert_close(value, ours[name], rtol=0, atol=1e-5)
        if theirs["generated"] is not None:
            answers += 1
            again = network.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)
            assert again.tolist() == theirs["generated"].tolist()
    assert answers == 3


def test_the_folder_holds_what_is_needed_and_no_code(checkpoint: Path, tmp_path: Path):
    folder = export(checkpoint, tmp_path / "model", MaskedLM)
    names = ["README.md", "config.json", "model.safetensors", MARKER, "tokenizer.json", "tokenizer_config.json"]
    assert sorted(contents(folder)) == sorted(names)
    assert "auto_map" not in (folder / "config.json").read_text()
    assert str(tmp_path) not in "".join(path.read_text() for path in folder.iterdir() if path.suffix != ".safetensors")
    assert json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"] == 24
    assert len({path.stat().st_mode for path in folder.iterdir()}) == 1  # others may read all of it, or none
    assert json.loads((folder / MARKER).read_text())["step"] == 7


def test_tied_weights_are_stored_once(checkpoint: Path, tmp_path: Path):
    with safe_open(export(checkpoint, tmp_path / "model", MaskedLM) / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert "bert.embeddings.word_embeddings.weight" in names
    assert "cls.predictions.decoder.weight" not in names


def test_the_average_is_exported(tmp_path: Path):
    task = MaskedLM(overrides=TINY, ema=0.9)
    network, path = trained(task, link(), tmp_path / "a.ckpt")
    other = {name: torch.randn_like(value) for name, value in task.state_dict().items()}
    save(task, path, current_model_state=other)  # as Lightning's WeightAveraging has it
    loaded = BertForMaskedLM.from_pretrained(export(path, tmp_path / "model", MaskedLM))
    torch.testing.assert_close(logits(loaded.eval()), logits(network), rtol=0, atol=1e-5)


def test_a_generating_network_has_its_generation_config(tmp_path: Path):
    task = TextGeneration(architecture="gpt2", overrides={"n_embd": 16, "n_head": 2, "n_inner": 32})
    _, path = trained(task, link("bpe"), tmp_path / "a.ckpt")
    folder = export(path, tmp_path / "model", TextGeneration)
    assert "eos_token_id" in json.loads((folder / "generation_config.json").read_text())


def test_labels_are_named_in_the_config(tmp_path: Path):
    task = Labels(overrides=TINY | {"id2label": {0: "a", 1: "b", 2: "c"}})
    _, path = trained(task, link(labels=["bad", "so-so", "good"]), tmp_path / "a.ckpt")
    config = transformers.AutoConfig.from_pretrained(export(path, tmp_path / "model", Labels))
    assert config.id2label == {0: "bad", 1: "so-so", 2: "good"}
    assert config.label2id == {"bad": 0, "so-so": 1, "good": 2}


def test_an_earlier_export_is_replaced(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    _, newer = trained(MaskedLM(overrides=TINY, seed=5), link(), tmp_path / "newer.ckpt")
    export(newer, tmp_path / "model", MaskedLM)
    now = contents(tmp_path / "model")
    assert now["model.safetensors"] != earlier["model.safetensors"]
    assert now.keys() == earlier.keys()
    assert no_litter(tmp_path)


def test_an_empty_folder_is_taken(checkpoint: Path, tmp_path: Path):
    (tmp_path / "model").mkdir()
    assert MARKER in contents(export(checkpoint, tmp_path / "model", MaskedLM))
    assert no_litter(tmp_path)


@pytest.mark.parametrize("at", ["old away", "new in"])
def test_a_failed_rename_leaves_the_old_folder(
    at: str, checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    real = os.rename

    def rename(source: Path, target: Path) -> None:
        if Path(source).name == ("model" if at == "old away" else ".model.tmp"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert contents(tmp_path / "model") == earlier
    assert no_litter(tmp_path)


def test_what_a_kill_has_left_is_put_right(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    """SIGKILL between the two renames, the worst moment: the next call gives the old folder back."""
    model, old, half = tmp_path / "model", tmp_path / ".model.old", tmp_path / ".model.tmp"
    os.rename(model, old)
    half.mkdir()
    (half / "config.json").write_text("{")
    with pytest.raises(UserError, match="no such checkpoint"):
        export(tmp_path / "none.ckpt", model, MaskedLM)
    assert contents(model) == earlier
    assert no_litter(tmp_path)


def test_leftovers_beside_a_whole_folder_are_removed(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    shutil.copytree(tmp_path / "model", tmp_path / ".model.old")  # killed before the old one was deleted
    (tmp_path / ".model.tmp").mkdir()
    export(checkpoint, tmp_path / "model", MaskedLM)
    assert no_litter(tmp_path)


def test_another_model_is_not_put_in_place(
    checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
):
    real = BertForMaskedLM.save_pretrained

    def torn(network: BertForMaskedLM, folder: Path) -> None:
        with torch.no_grad():
            network.cls.predictions.bias[3] += 0.001
            real(network, folder)
            network.cls.predictions.bias[3] -= 0.001

    monkeypatch.setattr(BertForMaskedLM, "save_pretrained", torn)
    with pytest.raises(RuntimeError, match=r"gives other logits than the checkpoint \(by 1\.0e-03\)"):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert contents(tmp_path / "model") == earlier


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond: the kernel refuses, as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [100, 2000, 20_000])
def test_a_full_disk_is_named(size: int, checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    model = tmp_path / "model"
    message = f"{model}: no space left to write the model; make room or name another folder"
    with files_up_to(size), pytest.raises(UserError) as caught:
        export(checkpoint, model, MaskedLM)
    assert str(caught.value) == message
    assert contents(model) == earlier
    assert no_litter(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), SafetensorError("I/O error: No space left on device (os error 28)")],
)
def test_no_space_left_is_named(error: Exception, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: Any) -> None:
        raise error

    monkeypatch.setattr(ptm_lightning.export, "_write", full)
    with pytest.raises(UserError, match="model: no space left"):
        export(checkpoint, tmp_path / "model", MaskedLM)
    assert not (tmp_path / "model").exists()


def test_what_is_not_ours_is_left_alone(checkpoint: Path, tmp_path: Path, earlier: dict[str, bytes]):
    thesis, file = tmp_path / "thesis", tmp_path / "file"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("1")
    file.write_text("1")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    for target, message in {
        thesis: f"--output {thesis}: holds something else than an export; name another folder",
        file: f"--output {file}: is a file; name a folder",
        tmp_path / "model": f"--output {tmp_path}/model: holds files of yours (notes.txt); name another folder",
        file / "model": f"{file}/model: can't be written (Not a directory); name another folder",
    }.items():
        with pytest.raises(UserError) as caught:
            export(checkpoint, target, MaskedLM)
        assert str(caught.value) == message
    assert contents(thesis) == {"chapter.txt": b"1"}
    assert contents(tmp_path / "model") == earlier | {"notes.txt": b"mine"}


def test_a_checkpoint_of_another_task_is_refused(checkpoint: Path, tmp_path: Path):
    with pytest.raises(UserError) as caught:
        export(checkpoint, tmp_path / "model", Labels)
    assert str(caught.value) == f"{checkpoint}: was written by MaskedLM, not by Labels; use that task's class"


def test_weights_that_do_not_fit_the_task_are_refused(tmp_path: Path):
    task = MaskedLM(overrides=TINY)
    _, path = trained(task, link(), tmp_path / "a.ckpt")
    save(task, path, state_dict={"network.other": torch.zeros(1)})
    with pytest.raises(UserError, match=r"a\.ckpt: its weights don't fit MaskedLM"):
        export(path, tmp_path / "model", MaskedLM)


def test_a_network_of_a_plug_in_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    _, path = trained(MaskedLM(overrides=TINY), link(), tmp_path / "a.ckpt")
    monkeypatch.setattr(BertForMaskedLM, "__module__", "my_plug_in")
    with pytest.raises(UserError, match=r"its network BertForMaskedLM is not one of transformers' own"):
        export(path, tmp_path / "model", MaskedLM)
    assert not (tmp_path / "model").exists()
