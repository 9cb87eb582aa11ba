"""A mistake on the command line or in its files gets one clear message, and leaves nothing behind."""

import os
import re
import socket
from pathlib import Path

import pytest
from cli_run import SIZE

from ptm_lightning.__main__ import main
from ptm_lightning.data.tokenizer_training import train_tokenizer
from ptm_lightning.run import RunLock

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
