"""TF32 of both kinds: in products of matrices and in convolutions, which torch sets apart.

torch's own start is TF32 in convolutions alone, so that a float32 run on a GPU would be neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def tf32_allowed() -> dict[str, bool]:
    """Whether float32 may be computed in TF32 on a GPU, by kind."""
    return {
        "matmul": torch.backends.cuda.matmul.allow_tf32,
        "cudnn": torch.backends.cudnn.allow_tf32,
    }


@contextmanager
def without_tf32() -> Iterator[None]:
    """Within the with-block, float32 is computed in float32 by both kinds."""
    before = tf32_allowed()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before["matmul"]
        torch.backends.cudnn.allow_tf32 = before["cudnn"]
