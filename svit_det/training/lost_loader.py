"""The sentence about a process that loads images and was killed."""

from __future__ import annotations

import re

LOST = re.compile(r"DataLoader worker .*(killed by signal|exited unexpectedly)")
GO_ON = "--resume goes on from the last checkpoint"


def lost_loader(problem: Exception, *, key: str, then: str = GO_ON) -> str | None:
    """What is said where torch's loader says that one of its processes is gone; None: it does not.

    key: the config key with the number of these processes. then: how to go on.
    """
    if not LOST.search(str(problem)):
        return None
    return (
        f"a process that loads images was killed, perhaps for want of memory; {then} ({key} says "
        "how many there are)."
    )
