"""Pictures: grids of images on a page, sheets that say what they show, charts; written as PNG, or animated as GIF."""

from .animation import save_animation
from .grids import EMPTY, HIDDEN, PAPER, columns_for, columns_in_turn, grid, hide, in_turn, to_rgb
from .page import FAINT, INK, Page, can_write, save, save_figure, text_width, wrap

__all__ = [
    "EMPTY",
    "FAINT",
    "HIDDEN",
    "INK",
    "PAPER",
    "Page",
    "can_write",
    "columns_for",
    "columns_in_turn",
    "grid",
    "hide",
    "in_turn",
    "save",
    "save_animation",
    "save_figure",
    "text_width",
    "to_rgb",
    "wrap",
]
