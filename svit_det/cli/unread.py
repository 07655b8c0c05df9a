"""What commands say about pictures that cannot be used, while the other pictures are done."""

from __future__ import annotations

from collections.abc import Sequence

from svit_det.errors import InputError


def none_usable(reasons: Sequence[str]) -> InputError:
    """The refusal of a run of which no picture can be used; one reason for each picture."""
    if len(reasons) == 1:
        return InputError(reasons[0])
    return InputError(f"None of the {len(reasons)} pictures can be used; the first: {reasons[0]}")


def say_unread(reasons: Sequence[str], total: int) -> None:
    """Print the number of pictures that could not be used, of `total`, and each reason."""
    if reasons:
        print(f"{len(reasons)} of {total} pictures could not be used:")
        print("\n".join(f"  {reason}" for reason in reasons))
