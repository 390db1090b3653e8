"""What is said aloud: one line on stderr for what a user should know without asking, and no advert of others."""

from __future__ import annotations

import logging
import warnings

LOGGER = logging.getLogger("fullyconv")


def tell(message: str) -> None:
    """Say something a user should know: layers that start anew, weights that nobody vouches for.

    It goes through the logger "fullyconv": ``logging.getLogger("fullyconv").setLevel(logging.WARNING)`` silences it.
    Where nobody has configured logging, it goes to stderr as it is.

    Args:
        message: one or more lines.
    """
    if not LOGGER.hasHandlers():
        # Like logging's own handler of last resort, which does not show what is below a warning.
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("fullyconv: %(message)s"))
        LOGGER.addHandler(handler)
    if LOGGER.level == logging.NOTSET:
        LOGGER.setLevel(logging.INFO)
    LOGGER.info(message)


def hush() -> None:
    """Keep Lightning's adverts, and warnings that nobody who trains can act on, off the screen.

    What is left out are its tips to install a service, its word on packages that it no longer needs, the deprecation
    of a torch class that it uses itself, and its advice for large sets (workers, logging interval), which is wrong for
    the small sets that most people have.
    """
    for message in (
        r".*treespec, LeafSpec",
        r".*`tensorboardX` has been removed as a dependency",
        r".*does not have many workers",
        r".*smaller than the logging interval",
    ):
        warnings.filterwarnings("ignore", message=message)
    for library in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{library}.utilities.rank_zero").addFilter(_no_advert)


def _no_advert(record: logging.LogRecord) -> bool:
    return "Tip: For seamless" not in str(record.msg)
