"""What the package says aloud: one line on stderr for what a user should know without asking."""

from __future__ import annotations

import logging

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
