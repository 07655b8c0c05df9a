"""How far an exported file may be from its model: bounds for each output and precision.

A file in float32 does the model's arithmetic in another order. float32 rounds in proportion to what
it holds, and trained maps hold larger numbers than fresh ones, so that a bound is a share of the
model's largest number, or of 1 where that is smaller. Maps, scores and mask logits of the shipped
detectors differ by less than 1e-5 of it; they are promised to 1e-4. Boxes are pixels: a share of
1e-4 would be a tenth of a pixel in a picture of 1,000. They differ by 2e-7 and are promised to
1e-5, in pixels still the widest bound. All decisions about tokens are the model's.

With less precision a token close to a threshold is kept in one and skipped in the other. The map
there differs by as much as maps hold, and detections change their number and order: their numbers
have no bound. Bounded is the share of decisions that are the model's. The shipped detectors keep
99 % of them in bfloat16 and 97 % in 8-bit integers; a file far below that computes something else.
"""

from __future__ import annotations

from svit_det.export.checks import Parity
from svit_det.export.formats import BFLOAT16, FLOAT, INT8

DIFFERENCE = 1e-4
"""The largest difference in float32, as a share of an output's largest number."""
OWN_DIFFERENCE = {"boxes": 1e-5, "classes": 0.0}
"""The same for outputs with a bound of their own."""
ALIKE = {FLOAT: 1.0, BFLOAT16: 0.75, INT8: 0.5}
"""The least share of decisions that are the model's, by precision."""


def too_far(parity: Parity, precision: str) -> str | None:
    """What is wrong with a file of this precision, in a few words; None where nothing is."""
    if not parity.finite:
        return "it gives no numbers"
    if parity.alike < ALIKE[precision]:
        return f"it decides as the model about {parity.alike:.1%} of the tokens"
    if precision != FLOAT:
        return None
    for output, apart in parity.apart.items():
        bound = OWN_DIFFERENCE.get(output, DIFFERENCE)
        if not apart.share <= bound:
            return f"{output}: {apart.most:.1e} apart, where {bound * apart.scale:.1e} is rounding"
    return None
