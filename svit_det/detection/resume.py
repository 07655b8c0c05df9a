"""Whether a run may go on from a checkpoint: its settings are the same, key by key."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from textwrap import shorten
from typing import Any

import detectron2.utils.comm as comm
from detectron2.config import CfgNode

from svit_det.config.keys import POLICY_NODE
from svit_det.config.same_settings import Change, changes, settings_of
from svit_det.detection.config_file import default_config
from svit_det.detection.state_form import identity_in
from svit_det.errors import InputError
from svit_det.settings import shown
from svit_det.weights.files import DESCRIPTION

logger = logging.getLogger(__name__)

MAY_CHANGE = frozenset(
    {
        *("MODEL.DEVICE", "CUDNN_BENCHMARK", "OUTPUT_DIR", "VIS_PERIOD"),
        *("DATALOADER.NUM_WORKERS", "SOLVER.CHECKPOINT_PERIOD", "DATASETS.COCO_FORMAT"),
    }
)
"""Keys that do not change the result of a training. The paths of a set may change; the number of
its images is compared."""
TRAINS_TOO = "TEST.PRECISE_BN."
"""The beginning of the keys of TEST that change what is trained. No other key of TEST does, nor any
key with the word TEST in its name."""
START = "MODEL.WEIGHTS"
"""A resumed run reads this file only for a policy that learns from a teacher."""
LENGTH, FALLS = "SOLVER.MAX_ITER", "SOLVER.STEPS"
"""A run may be made longer, and the steps at which the rate falls may then move."""
MIXED, ON_A_CPU = "SOLVER.AMP.ENABLED", "MODEL.VIT.CPU_PRECISION"
"""The two keys of mixed precision; train_net.py turns the first into the second on a CPU."""


def counts_of(images: int) -> dict[str, int]:
    """The numbers beside the config that must be the same in a resumed run."""
    return {
        "number of processes": comm.get_world_size(),
        "number of training images": images,
    }


def check_resume(
    cfg: CfgNode,
    path: str,
    checkpoint: Mapping[str, Any],
    *,
    images: int,
    needs_teacher: bool = False,
) -> None:
    """Refuse to go on with a checkpoint of another run.

    `images`: the number of training images. A longer SOLVER.MAX_ITER is allowed and named in the
    log. Raises InputError that names the file and the first difference.
    """
    said = checkpoint.get(DESCRIPTION, {}).get("config")
    changed = _changed(cfg, said, path, needs_teacher) if isinstance(said, str) else []
    before = identity_in(checkpoint.get("trainer"))
    for name, number in counts_of(images).items():
        old = before.get(name, number)  # older checkpoints lack some
        if type(old) is not int or old != number:
            changed.append((name, old, number))
    if changed:
        what, old, new = changed[0]
        more = f" ({len(changed) - 1} more settings differ)" if len(changed) > 1 else ""
        raise InputError(
            f"{path}: a run with {what} {_short(old)} cannot go on with {_short(new)}{more}; set "
            "it back, or begin anew with this file as MODEL.WEIGHTS and without --resume."
        )


def _changed(cfg: CfgNode, config: str, path: str, needs_teacher: bool) -> list[Change]:
    """The keys that are not as they were and must be; the policy's name comes first."""
    defaults = default_config().dump()
    before = settings_of(config, defaults=defaults, source=f"the config in {path}")
    now = settings_of(cfg.dump(), defaults=defaults, source="this run's config")
    allowed = {*MAY_CHANGE, *(() if needs_teacher else (START,))}
    if _kind_of_device(before) != _kind_of_device(now) and _is_mixed(before) == _is_mixed(now):
        allowed |= {MIXED, ON_A_CPU}
    if type(before[LENGTH]) is int and before[LENGTH] < now[LENGTH]:
        allowed |= {LENGTH, FALLS}
        logger.warning(
            "%s: its run was one of %s %d; prolonged to %d, it is another run from here on.",
            *(path, LENGTH, before[LENGTH], now[LENGTH]),
        )
    found = changes(before, now, may_change=lambda key: key in allowed or _is_for_tests(key))
    return sorted(found, key=lambda change: change[0] != f"{POLICY_NODE}.NAME")


def _is_for_tests(key: str) -> bool:
    return "TEST" in re.split(r"[._]", key) and not key.startswith(TRAINS_TOO)


def _kind_of_device(settings: Mapping[str, Any]) -> str:
    return str(settings["MODEL.DEVICE"]).partition(":")[0]


def _is_mixed(settings: Mapping[str, Any]) -> bool:
    return bool(settings[MIXED]) or settings[ON_A_CPU] != "float32"


def _short(value: Any) -> str:
    return shorten(value, 60) if isinstance(value, str) and value else shown(value)
