"""What the framework says to its user while it works."""

import logging
import warnings

from lightning.pytorch.utilities import rank_zero_only

logger = logging.getLogger("ptm_lightning")


@rank_zero_only
def say(message: str) -> None:
    """Tells the user something that matters: a setting replaced, a file skipped. From one process only."""
    logger.warning(message)


def set_up_logging() -> None:
    """Shows our messages as plain lines on the error stream, and keeps Lightning's advertisements away."""
    for earlier in [handler for handler in logger.handlers if type(handler) is logging.StreamHandler]:
        logger.removeHandler(earlier)  # the error stream may be another one now
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.formatwarning = _format_warning
    for message in _KNOWN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)


def _format_warning(message: Warning | str, *_: object, **__: object) -> str:
    """One line, without the place in our code that means nothing to a user."""
    return f"warning: {message}\n"


_KNOWN_WARNINGS = (
    ".*`max_epochs` was not set.*",  # the length of a run may be said in tokens, steps or hours
    ".*LeafSpec.*",  # Lightning's use of torch's pytree
    ".*WeightAveraging callback with a model that overrides the configure_model.*",  # we don't shard
    ".*does not have many workers.*",  # our store needs none
    ".*The `srun` command is available.*",  # a matter of taste
    ".*but have no logger configured.*",  # validate prints what it logs
    ".*Starting from v1.9.0, `tensorboardX` has been removed.*",  # we have a logger of our own
    ".*across ranks? is zero. Please make sure this was your intention.*",  # our loaders have no length
)
