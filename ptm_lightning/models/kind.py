"""Which architectures have the network that a task needs."""

from pathlib import Path

import transformers
from transformers import AutoConfig, PreTrainedConfig

from ptm_lightning.errors import UserError
from ptm_lightning.models.config import first_line

CONVERT = (
    "its weights are pickle, which can run code, and no safetensors; if you trust it, convert it once with "
    "transformers: AutoModelForPreTraining.from_pretrained(NAME, use_safetensors=False).save_pretrained(FOLDER)"
)
CAUSAL = ("gpt2", "llama", "qwen3", "opt")
OTHERS = ("bert", "roberta", "albert", "distilbert", "t5", "bart", "mbart", "marian")
"""Architectures for text that are named: transformers' lists begin with those for speech and pictures."""
NAMED = 4


def check_kind(auto_class: str, kind: type[PreTrainedConfig], flag: str) -> None:
    """Refuses an architecture that has no such network.

    Args:
        auto_class: "AutoModelForMaskedLM" or another of transformers' auto classes.
        kind: The architecture's class of configs.
        flag: What the user has said, such as "--model.architecture gpt2".

    Raises:
        UserError: It has none; those that have one are named.
    """
    classes = getattr(transformers, auto_class)._model_mapping
    if kind in classes:
        return
    known = {known.model_type for known in classes}
    named = [name for name in (CAUSAL if "Causal" in auto_class else OTHERS) if name in known][:NAMED]
    more = f" or another of {len(known)}" if len(known) > len(named) else ""
    raise UserError(
        f"{flag}: transformers has no {auto_class.removeprefix('Auto')} of {kind.model_type}; "
        f"take {', '.join(named)}{more}"
    )


def backbone_kind(auto_class: str, name: str) -> type[PreTrainedConfig]:
    """The class of a pretrained network's config.

    Args:
        auto_class: What the task needs, for the message.
        name: A folder, or a name on the hub.

    Raises:
        UserError: It can't be read.
    """
    check_folder(name)
    try:
        return type(AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError) as error:
        raise UserError(explain(name, auto_class, error)) from error


def check_folder(name: str) -> None:
    """Refuses, in one clear message, what the hub client would report as a failed download."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"--model.backbone {name}: is a file; give the folder that holds config.json")
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise UserError(f"--model.backbone {name}: no such folder")
        return
    if not (folder / "config.json").is_file():
        raise UserError(f"--model.backbone {name}: the folder has no config.json")
    if not any(folder.glob("*.safetensors")):
        problem = CONVERT if any(folder.glob("*.bin")) else "the folder has no *.safetensors weights"
        raise UserError(f"--model.backbone {name}: {problem}")


def explain(name: str, auto_class: str, error: Exception) -> str:
    """One message for the ways in which loading fails."""
    if Path(name).expanduser().is_dir():
        return f"--model.backbone {name}: can't be loaded as {auto_class}: {first_line(error)}"
    if "safetensors" in str(error):
        return f"--model.backbone {name}: {CONVERT}"
    return (
        f"--model.backbone {name}: no such folder, and no such model on the hub, or no network; "
        f"give a folder with config.json and model.safetensors ({first_line(error)})"
    )
