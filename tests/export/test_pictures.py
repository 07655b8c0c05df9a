"""On which pictures a file is compared with its model: some picture has a detection, if any has."""

import torch

from svit_det.export.pictures import TRIES, made_up_picture, where_something_is_found

SIZE = (24, 36)


class Finds(torch.nn.Module):
    """A graph that finds something in pictures that this function chooses."""

    def __init__(self, chooses):
        super().__init__()
        self.chooses, self.asked = chooses, 0

    def forward(self, image):
        self.asked += 1
        number = 3 if self.chooses(image) else 0
        return torch.zeros(number, 4), torch.zeros(number), torch.ones(1, 2, 2, 3).bool()


def same(first, second):
    return first.shape == second.shape and bool((first == second).all())


def chosen(chooses, given=()):
    """The further pictures, and how many pictures the graph was asked about."""
    graph, images = Finds(chooses), [made_up_picture(SIZE, seed) for seed in (1, 2)]
    found = where_something_is_found(graph, images, given)
    assert all(same(*pair) for pair in zip(found, images, strict=False))
    return found[2:], graph.asked


def test_pictures_with_a_detection_suffice():
    second = made_up_picture(SIZE, 2)
    assert chosen(lambda image: same(image, second)) == ([], 2)


def test_given_pictures_come_first_and_made_up_ones_then():
    black, white = torch.zeros(1, 3, *SIZE), torch.full((1, 3, *SIZE), 255.0)
    (further,), _ = chosen(lambda image: same(image, white), (black, white))
    assert same(further, white)
    made_up = made_up_picture(SIZE, 7)
    (further,), asked = chosen(lambda image: same(image, made_up), (black, white))
    assert same(further, made_up) and asked == 2 + 2 + 3


def test_the_search_ends():
    assert chosen(lambda image: False) == ([], 2 + TRIES)
