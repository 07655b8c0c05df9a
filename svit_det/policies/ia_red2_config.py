"""IARED2Config: the settings of IA-RED2."""

from __future__ import annotations

from dataclasses import dataclass

from svit_det.policies.base import ScheduleConfig
from svit_det.settings import setting

MODES = ("threshold", "released")
LEAST_CHANCE = {"straight_through": 0.02, "reinforce": 0.2}
"""The least probability of each outcome of a draw, by method. The tool's is .2: p becomes
.2 + .6 p."""


@dataclass(frozen=True, kw_only=True)
class IARED2Config(ScheduleConfig):
    """MODEL.TOKEN_POLICY.IA_RED2, and the shared keys."""

    node = "IA_RED2"
    loss_weight: float = setting(
        4.0, "Weight of the policy's auxiliary loss.", interval="[0, 1e6]", shared=True
    )
    method: str = setting("straight_through", "How agents learn.", choices=tuple(LEAST_CHANCE))
    mode: str = setting("threshold", "How agents decide at inference.", choices=MODES)
    agent_heads: int = setting(
        6,
        "Number of heads of each agent, which must divide MODEL.VIT.EMBED_DIM.",
        interval="[1, 4096]",
    )
    agent_rate: float = setting(
        1.0,
        "Learning rate of the agents over SOLVER.BASE_LR, at which the rest of the network learns.",
        interval="(0, 1e6]",
    )
    reward_weight: float = setting(
        1.0,
        "Weight of 1 - (kept share)^2 in the reward, beside the task's losses, in method "
        '"reinforce".',
        interval="[0, 1e6]",
        needs=("method", "reinforce"),
    )

    @property
    def least_chance(self) -> float:
        """The least probability of each outcome of an agent's decision."""
        return LEAST_CHANCE[self.method]
