"""What torch says about a killed process of a loader becomes a sentence."""

import pytest

from svit_det.training.lost_loader import lost_loader


@pytest.mark.parametrize(
    "said",
    [
        "DataLoader worker (pid 12) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 12, 13) exited unexpectedly",
    ],
)
def test_the_sentence(said):
    found = lost_loader(RuntimeError(said), key="DATA.NUM_WORKERS", then="evaluate again")
    assert found == (
        "a process that loads images was killed, perhaps for want of memory; evaluate again "
        "(DATA.NUM_WORKERS says how many there are)."
    )


def test_other_errors():
    assert lost_loader(RuntimeError("shapes cannot be multiplied"), key="DATA.NUM_WORKERS") is None
