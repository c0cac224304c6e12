"""How the pictures of the gallery look, set anew before each of its pages."""

import matplotlib as mpl

COLOURS = ["#0b6e99", "#d1495b", "#66a182", "#edae49", "#5e548e", "#8d99ae"]


def apply(conf: dict[str, object], name: str) -> None:
    """Set what sphinx-gallery has just reset."""
    mpl.rcParams.update(
        {
            "axes.grid": False,
            "axes.prop_cycle": mpl.cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.titlesize": "medium",
            "figure.constrained_layout.use": True,
            "figure.dpi": 100,
            "figure.figsize": (7.5, 3.2),
            "font.size": 9.5,
            "image.cmap": "Blues",
            "legend.frameon": False,
            "lines.linewidth": 2.0,
        }
    )
