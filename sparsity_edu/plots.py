"""The plots that lessons share: one look, colours that colour-blind readers can tell apart, and pictures of masks.

Colours are Okabe and Ito's ("Color Universal Design", 2008). matplotlib is imported when something is drawn, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9"
GREY = "#999999"
COLORS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY)

_WIDE = 96  # cells in a row or column from which on a picture has no grid lines


def style() -> None:
    """Give all following plots the look of the course: white, a faint grid, no box, the colours above in turn."""
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.facecolor": "white",  # also where the notebook is dark: axis labels are black
            "figure.constrained_layout.use": True,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "grid.alpha": 0.3,
            "legend.frameon": False,
        }
    )


def masks(masks: Mapping[str, Tensor], W: Tensor | None = None, columns: int = 3) -> Figure:
    """Draw masks side by side: what is kept in colour, what is dropped in white.

    Args:
        masks: boolean (rows, cols) by title, True = kept. The share of zeros is added to the title.
        W: (rows, cols) weights; if given, a kept entry is the darker the larger its magnitude.
        columns: panels in a row.

    Returns:
        The figure.
    """
    import matplotlib.pyplot as plt

    n_rows = -(-len(masks) // columns)
    height, width = next(iter(masks.values())).shape
    panel = 10.5 / columns  # inches
    size = (10.5, n_rows * (panel * height / width + 0.4))
    figure, axes = plt.subplots(n_rows, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(masks) :]:
        ax.set_visible(False)
    for ax, (title, mask) in zip(axes.flat, masks.items(), strict=False):
        mask_panel(ax, mask, W)
        ax.set_title(f"{title}: {100 * (~mask).float().mean():.0f} % zero", loc="left")
    figure.get_layout_engine().set(wspace=0.04, hspace=0.06)
    return figure


def mask_panel(ax: Axes, mask: Tensor, W: Tensor | None = None) -> None:
    """Draw one mask.

    Args:
        ax: where.
        mask: boolean (rows, cols), True = kept.
        W: (rows, cols) weights, or None for one colour.
    """
    from matplotlib.colors import LinearSegmentedColormap

    magnitude = torch.ones(mask.shape) if W is None else W.detach().abs().float().cpu()
    shade = magnitude / magnitude.max().clamp(min=1e-30)  # (rows, cols) in [0, 1]
    shown = torch.where(mask.cpu(), shade, torch.nan)  # NaN is drawn in the "bad" colour
    colors = LinearSegmentedColormap.from_list("kept", ["#BFDDF0", BLUE, "#00263D"]).with_extremes(bad="white")
    rows, cols = mask.shape
    ax.imshow(shown.numpy(), cmap=colors, vmin=0, vmax=1, interpolation="nearest")
    ax.grid(False)
    ax.set(xticks=[], yticks=[])
    if max(rows, cols) < _WIDE:
        ax.hlines([i - 0.5 for i in range(1, rows)], -0.5, cols - 0.5, color="#DDDDDD", linewidth=0.6)
        ax.vlines([j - 0.5 for j in range(1, cols)], -0.5, rows - 0.5, color="#DDDDDD", linewidth=0.6)
    for spine in ax.spines.values():
        spine.set(visible=True, color=GREY)


def names(ax: Axes, points: Mapping[str, tuple[float, float]], size: float = 8) -> None:
    """Write names beside points, where no other name and no other point is. Call it last: it looks at limits and layout.

    Args:
        ax: the panel.
        points: (x, y) by name.
        size: of the letters, in points.
    """
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    ax.figure.draw_without_rendering()
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in map(ax.transData.transform, points.values())]
    near, low, high = size * 0.8, -size * 0.4, size
    places = [(side * near, low + step * high) for step in (0, 1, -1, 2, -2, 3, -3) for side in (1, -1)]
    for name, point in points.items():
        text = ax.annotate(name, point, places[0], textcoords="offset points", fontsize=size, parse_math=False)
        text.set_path_effects([withStroke(linewidth=2.5, foreground="white")])  # lines may run below it
        for place in (*places, places[0]):  # to the right after all, where nothing is free
            text.set(position=place, ha="left" if place[0] > 0 else "right")
            if not any(text.get_window_extent().overlaps(other) for other in taken):
                break
        taken.append(text.get_window_extent())
