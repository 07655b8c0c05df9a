"""The laws once more, over the full product: policies, wrappers two deep, executors, grids, seeds.

Twelve blocks of 24 channels, tokens of 4 x 4 pixels.
"""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from svit_det.policies import WRAPPER_REGISTRY
from svit_det.vit import Execution, Masked, Packed, Padded

pytestmark = pytest.mark.long

GRIDS = [(1, 1), (1, 2), (2, 2), (7, 1), (3, 5), (5, 7), (9, 8)]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
SEEDS = pytest.mark.parametrize("seed", [1, 2, 3])


def nestings(case):
    """The case itself, and where it is a wrapper around a policy, each other wrapper around it."""
    yield case.name, case.build()
    if "(" in case.name:
        for name in WRAPPER_REGISTRY.names():
            if not case.name.startswith(name):
                yield f"{name}({case.name})", WRAPPER_REGISTRY.get(name)(case.build())


def executions(history):
    """Every way to run hard selections, the tightest room that they fit in included."""
    most = [
        max(*record.rows.keys, *record.rows.mlp, record.size - record.keys.shape[1], 1)
        for record in history
    ]
    for hard in (Packed(), Masked(), Padded(1.0), Padded(most)):
        yield Execution(hard=hard)


def one_image(history, image):
    """The history of one image of a batch."""
    at = slice(image, image + 1)

    def part(selection):
        extra = None if selection.extra is None else selection.extra[at]
        return replace(selection, keep=selection.keep[at], extra=extra)

    return [
        replace(
            record,
            selection=part(record.selection),
            keys=record.keys[at],
            mlp=record.mlp[at],
        )
        for record in history
    ]


@SEEDS
def test_every_executor_comes_to_the_same_everywhere(
    policy_case, tiny_trunk, images, forced, replay, same_outcome, seed
):
    for name, policy in nestings(policy_case):
        torch.manual_seed(seed)
        trunk, packed = tiny_trunk(policy), Execution()
        for grid in GRIDS:
            batch = images(3, grid)
            trunk.execution, trunk.policy = packed, policy
            with torch.no_grad():
                history = trunk(batch).history
                trunk.policy = forced(policy, replay(history))
                reference = trunk(batch)
                for execution in executions(reference.history):
                    trunk.execution = execution
                    print(name, grid, execution)  # shown where the next line fails
                    same_outcome(trunk(batch), reference)
                trunk.policy = forced(policy, replay(history, gated=True))
                same_outcome(trunk(batch), reference)


@SEEDS
def test_a_batch_is_its_images_everywhere(policy_case, tiny_trunk, images, forced, replay, seed):
    for name, policy in nestings(policy_case):
        torch.manual_seed(seed)
        trunk = tiny_trunk(policy)
        for grid in GRIDS:
            batch = images(3, grid)
            trunk.policy = policy
            with torch.no_grad():
                together = trunk(batch)
                for image in range(3):
                    print(name, grid, image)
                    trunk.policy = forced(policy, replay(one_image(together.history, image)))
                    alone = trunk(batch[image : image + 1])
                    assert_close(together.patches[image], alone.patches[0], **TOLERANCE)
                    assert_close(together.extra[image], alone.extra[0], **TOLERANCE)


@SEEDS
@pytest.mark.parametrize("class_token", [None, True], ids=["as needed", "class token"])
def test_promises_are_kept_everywhere(
    policy_case, tiny_trunk, images, counted_execution, seed, class_token
):
    for name, policy in nestings(policy_case):
        torch.manual_seed(seed)
        trunk = tiny_trunk(policy, class_token=class_token, execution=counted_execution())
        for training in (False, True):
            for grid in GRIDS:
                print(name, grid, training)
                with torch.no_grad():
                    trunk.train(training)(images(3, grid))
        with torch.no_grad():
            promised = [each.selection.total is not None for each in trunk(images(3, grid)).history]
        assert (trunk.execution.hard.promises > 0) >= any(promised)


@SEEDS
def test_stages_change_nothing_anywhere(policy_case, tiny_trunk, images, same_history, seed):
    for name, policy in nestings(policy_case):
        torch.manual_seed(seed)
        trunk = tiny_trunk(policy)
        for grid in GRIDS:
            print(name, grid)
            batch = images(2, grid)
            with torch.no_grad():
                at_once, state = trunk(batch), trunk.embed(batch)
                for layer in range(12):
                    state = trunk.run(state, layer, layer + 1)
            assert torch.equal(state.tokens, at_once.tokens)
            same_history(state.history, at_once.history)
