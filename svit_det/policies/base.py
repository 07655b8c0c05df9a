"""The contract between a policy, which decides, and the trunk, which executes.

B images, N patch tokens, E extra tokens, C channels, L blocks; blocks count from 0.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from svit_det.errors import InputError
from svit_det.policies.keep_schedule import LAST_NINE, THREE_STEPS, KeepSchedule
from svit_det.settings import Settings, setting
from svit_det.tokens import BlockRecord, ClassAttention, PassRecord, Selection, TokenState, everyone

Mean = Callable[[Tensor], Tensor]
"""The mean of a tensor over all processes of a training; the engine hands it in."""


def of_this_process(value: Tensor) -> Tensor:
    """The mean over all processes, where there is a single process."""
    return value


def in_the_graph(parameters: Iterable[Tensor]) -> Tensor:
    """A 0 that depends on all `parameters`: DDP waits for a gradient of each of them."""
    return 0 * torch.stack([parameter.sum() for parameter in parameters]).sum()


class BlockView(Protocol):
    """What a policy may look at while a block runs. Nothing is computed before it is asked for."""

    layer: int
    """The block's number, from 0."""
    last: bool
    """The block is the trunk's last one."""
    candidates: Tensor | None
    """(B, N) bool, the patch tokens that the policy may choose from. None: all."""

    def normed(self, state: TokenState) -> Tensor:
        """(B, N, C) the patch tokens after the block's first norm; the rows reuse these values."""

    def class_attention(self) -> ClassAttention:
        """What the class token attends to. Ask from `before_attention` to `after_attention`."""

    def class_attention_to_all(self) -> ClassAttention:
        """What the class token would attend to if every token were a key, skipped ones included."""

    def value_norms(self) -> Tensor:
        """(B, N) L2 norm of each patch token's value, all heads together; 0 if it is no key.

        Ask from `before_attention` to `after_attention`.
        """

    def attended(self) -> TokenState:
        """The state after the attention. Ask in `after_attention`."""


@dataclass(frozen=True)
class TaskLosses:
    """What the task said about one training pass, for policy losses that depend on the task."""

    named: Mapping[str, Tensor]
    """The task's own losses, scalars, by name."""
    per_image: Tensor | None = None
    """(B,) the task's loss of each image, where the task can tell."""
    record: PassRecord | None = None
    """The record of the pass of these losses. None: `losses` is called with this very record."""
    greedy: TaskLosses | None = None
    """The task's losses of a second pass without sampling, if the policy `needs_greedy_pass`."""
    teacher: PassRecord | None = None
    """The record of a frozen teacher's pass on the same images, if the policy `needs_teacher`."""
    mean: Mean = of_this_process
    """The mean over all processes."""


@dataclass(frozen=True)
class TrunkShape:
    """The sizes of a trunk that policies build their parts from."""

    embed_dim: int
    depth: int
    num_heads: int


@dataclass(frozen=True, kw_only=True)
class PolicyConfig(Settings):
    """The settings of a policy. Base for the `Config` inside each policy."""

    node: ClassVar[str] = ""
    """The yaml node of the policy's own keys. Default: its name in capitals."""
    fixed_count: ClassVar[Mapping[str, Any]] = {}
    """Settings under which every image keeps the same number of tokens, where the defaults do not
    say so already."""


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig(PolicyConfig):
    """Settings of a policy with a keep schedule."""

    layers: tuple[int, ...] = setting(
        (),
        "Blocks with a decision. [] means the policy's own blocks, which the policy's file names.",
        kind=int,
        many=True,
        interval="[0, 1000]",
        shared=True,
    )
    keep_ratios: tuple[float, ...] = setting(
        (),
        "Share of an image's patch tokens that each of LAYERS keeps: a target, an exact share "
        "or an upper bound, as the policy says. [] means the policy's own shares, which the "
        "policy's file names.",
        kind=float,
        many=True,
        interval="(0, 1]",
        shared=True,
    )
    test_keep_ratio: float | None = setting(
        None,
        "Mean share over LAYERS at inference; None means that the shares stay as trained. "
        "Another share needs no retraining. Where the count depends on the image, thresholds that "
        "training tracked keep each image within .03.",
        kind=float,
        optional=True,
        interval="(0, 1]",
        shared=True,
    )

    def schedule(
        self,
        depth: int,
        *,
        layers: tuple[int, ...] = LAST_NINE,
        shares: tuple[float, ...] = THREE_STEPS,
        falling: str = "",
    ) -> KeepSchedule:
        """The schedule; the policy's own `layers` and `shares` stand in where none are set."""
        return KeepSchedule(self.layers or layers, self.keep_ratios or shares, depth, falling)


class TokenPolicy(nn.Module):
    """Decides which tokens each block keeps.

    A policy names patch tokens by their place on the grid, (B, N), and knows nothing of rows,
    padding and batch size. A policy may hold parameters, and statistics of the training, but
    nothing of a forward pass: the notes of a pass travel in `TokenState.notes`, under the policy's
    own key.
    """

    Config: ClassVar[type[PolicyConfig]] = PolicyConfig
    Notes: ClassVar[type] = type(None)
    """The type of the policy's notes."""
    shows_attention: ClassVar[bool] = False
    """The scores of all blocks are the class token's attention, so that a picture may show them."""
    takes_any_key: ClassVar[bool] = False
    """Config keys that the policy does not use may be set. The policy can so replace another."""
    needs_class_token: bool = False
    needs_greedy_pass: bool = False
    """`losses` compares with a second pass that decides as at inference (self-critical)."""
    needs_teacher: bool = False
    """`losses` compares with the pass of a frozen teacher (distillation)."""
    preserves: bool = True
    """A skipped token is bit-identical after the block."""
    adds_tokens: bool = False
    """The policy adds extra tokens: even if every token is kept, the model is not the dense one."""
    always_skips: bool = False
    """Even with a budget of 1 some token is skipped."""

    def __init__(
        self, *, config: PolicyConfig | None = None, shape: TrunkShape | None = None
    ) -> None:
        super().__init__()

    # ------------------------------------------------------------------ deciding, block by block

    def before_block(self, view: BlockView, state: TokenState) -> tuple[TokenState, Selection]:
        """Say which tokens enter the block. Default: every token."""
        return state, everyone(state)

    def before_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Say which tokens attend and go on to the MLP. Default: the tokens that entered.

        Keys and values are known, queries are not. A token skipped here still serves as key and
        value, but gets no output: its row is never computed, and the token keeps the value that it
        entered the block with. Only the state's notes may change.
        """
        return state, selection

    def after_attention(
        self, view: BlockView, state: TokenState, selection: Selection
    ) -> tuple[TokenState, Selection]:
        """Say which tokens go on to the MLP. Default: the tokens that attended.

        `state` holds the values from before the attention, `view.attended()` the values from after
        it. A policy that changes tokens starts from `view.attended()`. A token skipped here keeps
        its value from after the attention.
        """
        return state, selection

    def after_block(
        self, view: BlockView, entered: TokenState, state: TokenState, record: BlockRecord
    ) -> TokenState:
        """Say what skipped tokens get. Default: skipped tokens keep the value that they had.

        `entered` is the state as `before_block` left it, `state` the state after the MLP.
        """
        return state

    # ------------------------------------------------------------------ the map

    def read_map(self, state: TokenState) -> Tensor:
        """(B, N, C) the patch tokens as the rest of the network sees them."""
        return state.patches

    def write_map(self, state: TokenState, patches: Tensor) -> TokenState:
        """Take over what the rest of the network made of the map (B, N, C)."""
        return state.with_patches(patches)

    # ------------------------------------------------------------------ training

    def losses(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor]:
        """Weighted auxiliary losses of one training pass, keys `loss_*`. Default: none."""
        return {}

    def metrics(self, record: PassRecord, task: TaskLosses) -> dict[str, Tensor | float]:
        """Numbers of one training pass for its log, by name, without gradient. Default: none."""
        return {}

    def track(self, record: PassRecord, mean: Mean = of_this_process) -> None:
        """Update statistics (buffers) from one training pass. Default: there are none."""

    def set_step(self, step: int, steps: int | None = None) -> None:
        """Take in the number of the next training step, 0 to `steps` - 1. Default: no effect."""

    @property
    def takes_part_in_training(self) -> bool:
        """Whether the policy has losses, statistics or a clock, which its training needs."""
        own = type(self)
        return any(
            getattr(own, name) is not getattr(TokenPolicy, name)
            for name in ("losses", "track", "set_step")
        )

    def rate_factors(self) -> Mapping[str, float]:
        """Learning-rate factors of the recipe, by the beginning of a parameter's name.

        The names are the names inside the network, as in {"trunk.blocks": 0.01}. Default: none.
        """
        return {}

    def frozen(self, step: int, steps: int | None = None) -> Collection[str]:
        """The parts of the network that stand still at this step, by such names. Default: none."""
        return ()

    # ------------------------------------------------------------------ budget

    @property
    def schedule(self) -> KeepSchedule | None:
        """The deciding blocks in this mode (training or not), and their shares; None: no block."""
        return None

    def set_keep_ratio(self, ratio: float | None) -> None:
        """Run a trained model at another mean share over the deciding blocks; None: as trained.

        Raises InputError for a policy without a budget.
        """
        raise InputError(f"{type(self).__name__} has no budget to set.", setting="test_keep_ratio")

    @property
    def keep_ratio(self) -> float | None:
        """The budget that was set; None: as trained."""
        return None

    def follow(self, record: PassRecord) -> None:
        """Take in one pass at inference, so that later decisions adapt to recent images.

        This serves streams of images unlike the training's. Decisions then depend on the images
        before; therefore nothing calls `follow` unless a user asks for it. Default: no effect.
        """

    def forget(self) -> None:
        """Undo `follow`. Default: no effect."""

    # ------------------------------------------------------------------ notes

    @property
    def note_keys(self) -> frozenset[str]:
        """The keys under which this policy, and any policy inside it, remembers something."""
        return frozenset() if self.Notes is type(None) else frozenset({type(self).__name__})

    def recall(self, state: TokenState) -> Any:
        """The policy's own note of this pass; None: nothing yet.

        Raises InputError where something else lies under its key.
        """
        note = state.notes.get(type(self).__name__)
        if note is not None and not isinstance(note, self.Notes):
            raise InputError(
                f"The notes of {type(self).__name__} hold a {type(note).__name__}, not its own "
                f"{self.Notes.__name__}: another policy wrote under its key."
            )
        return note

    def remember(self, state: TokenState, note: Any) -> TokenState:
        """The state with this note under the policy's own key."""
        if not isinstance(note, self.Notes):
            raise InputError(
                f"{type(self).__name__} remembers {self.Notes.__name__}, not "
                f"{type(note).__name__}: say so in its class attribute Notes."
            )
        return replace(state, notes={**state.notes, type(self).__name__: note})
