"""The plots that lessons share: what is drawn is what the mask says, and it can be read on any background."""

import io
from itertools import combinations

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch

from sparsity_edu import plots

matplotlib.use("Agg")

MASKS = {
    "half": torch.tensor([[True, False, True], [False, True, False]]),
    "all": torch.ones(2, 3, dtype=torch.bool),
    "one": torch.tensor([[True, False, False], [False, False, False]]),
    "more": torch.ones(2, 3, dtype=torch.bool),
}


def panels(figure):
    return [axes for axes in figure.axes if axes.images]


def test_one_panel_per_mask_with_its_share_of_zeros_in_the_title():
    figure = plots.masks(MASKS)
    titles = [axes.get_title() or axes.get_title(loc="left") for axes in panels(figure)]
    assert len(titles) == len(MASKS)
    assert titles[0].startswith("half")
    assert "50" in titles[0]
    assert "83" in titles[2]


def colors_of(axes):
    """(rows, cols, 3) of what is drawn."""
    image = axes.images[0]
    return torch.tensor(image.cmap(image.norm(image.get_array()))[..., :3])


@pytest.mark.parametrize("weights", [None, torch.tensor([[0.5, 2.0, -3.0], [1.0, -0.1, 4.0]])])
def test_dropped_entries_are_white_and_kept_ones_are_not(weights):
    (axes,) = panels(plots.masks({"half": MASKS["half"]}, weights))
    assert torch.equal((colors_of(axes) >= 1).all(dim=-1), ~MASKS["half"])


def test_a_larger_magnitude_is_darker():
    (axes,) = panels(plots.masks({"all": MASKS["all"]}, torch.tensor([[0.5, 2.0, -3.0], [1.0, -0.1, 4.0]])))
    light = colors_of(axes).sum(dim=-1)
    assert light[1, 2] < light[0, 2] < light[0, 1] < light[1, 0] < light[0, 0] < light[1, 1]


def test_names_do_not_meet():
    plots.style()
    figure, ax = plt.subplots(figsize=(7.5, 5))
    points = {
        "first": (1.5, 1.4),
        "second, beside it": (1.78, 1.78),
        "third": (1.88, 1.88),
        "the fourth": (2.0, 1.9),
        "fifth": (2.0, 2.2),
    }
    ax.set(xscale="log", yscale="log", xlim=(0.8, 25), ylim=(0.05, 25))
    plots.names(ax, points)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    dots = [ax.transData.transform(point) for point in points.values()]
    assert [text.get_text() for text in ax.texts] == list(points)
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert not any(box.contains(*dot) for box in boxes for dot in dots)
    plt.close(figure)


def test_black_letters_stand_on_white_where_the_notebook_is_dark():
    """A notebook saves its figures as PNG, with settings of matplotlib alone."""
    with plt.rc_context({"figure.facecolor": "none"}):
        plots.style()
        figure, ax = plt.subplots(figsize=(1, 1))
        ax.set(xlabel="x")
        figure.savefig(saved := io.BytesIO(), format="png")
    plt.close(figure)
    saved.seek(0)
    pixels = torch.tensor(plt.imread(saved))  # (height, width, 4)
    assert bool((pixels[..., 3] == 1).all())
    assert pixels[0, 0].tolist() == [1, 1, 1, 1]
    assert float(pixels[..., :3].min()) < 0.5
