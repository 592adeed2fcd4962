"""Painted windows and doors."""

import numpy as np

from toycity.canvas import Canvas

GLASS = (0.20, 0.25, 0.31)
DARK = (0.10, 0.10, 0.11)


def pane(c: Canvas, s0, t0, s1, t1, frame, variant: int, mullions=(1, 1), width=0.035) -> None:
    """A framed window: reflections in the glass, a curtain or a blind, and the reveal's shadow."""
    c.shade(c.box(s0 - 0.02, t0 - 0.03, s1 + 0.02, t1 + 0.03), 0.80)
    c.rect(s0, t0, s1, t1, frame)
    glass = c.box(s0 + width, t0 + width, s1 - width, t1 - width)
    c.paint(glass, GLASS, glow=1.0)
    slope = (c.s - s0) / (s1 - s0) + (c.t - t0) / (t1 - t0)
    c.shade(glass & (slope > 0.9) & (slope < 1.25), 1.35)
    c.shade(glass & (slope < 0.7), 0.85)
    if variant == 1:  # curtains, drawn halfway
        fold = np.abs((c.s - (s0 + s1) / 2) / (s1 - s0)) > 0.26
        c.paint(glass & fold, (0.80, 0.77, 0.70), glow=0.55)
        c.shade(glass & fold & (c.s * 40 % 1 < 0.4), 0.88)
    elif variant == 2:  # a blind, let down halfway
        low = glass & (c.t > t0 + 0.45 * (t1 - t0))
        c.paint(low, (0.72, 0.71, 0.66), glow=0.35)
        c.shade(low & (c.t * 24 % 1 < 0.3), 0.85)
    for axis, low, high, count in ((c.s, s0, s1, mullions[0]), (c.t, t0, t1, mullions[1])):
        for bar in range(1, count + 1):
            at = low + (high - low) * bar / (count + 1)
            c.paint(c.box(s0, t0, s1, t1) & (np.abs(axis - at) < width / 2), frame)
    c.shade(glass & (c.t > t1 - width - 0.035), 0.55)


def window(wall: Canvas, kind: str, style: str, variant: int) -> Canvas:
    """A bay of a wall with a window."""
    c = wall.copy()
    frame = (0.24, 0.25, 0.27) if kind == "panel" else (0.90, 0.89, 0.86)
    sill = (0.78, 0.76, 0.72)
    if style == "casement":
        c.rect(0.26, 0.22, 0.74, 0.86, sill)
        pane(c, 0.30, 0.26, 0.70, 0.82, frame, variant, (1, 2))
        c.rect(0.24, 0.19, 0.76, 0.24, sill)
    elif style == "wide":
        pane(c, 0.12, 0.28, 0.88, 0.78, frame, variant, (2, 0))
        c.rect(0.10, 0.24, 0.90, 0.28, sill)
    elif style == "arched":
        c.paint(c.disc(0.5, 0.66, 0.25) | c.box(0.25, 0.20, 0.75, 0.66), sill)
        arch = c.disc(0.5, 0.66, 0.20) | c.box(0.30, 0.24, 0.70, 0.66)
        bare = c.copy()
        pane(c, 0.30, 0.24, 0.70, 0.86, frame, variant, (1, 2))
        for channel in ("rgb", "tint", "glow"):
            getattr(c, channel)[~arch] = getattr(bare, channel)[~arch]
    elif style == "french":
        c.rect(0.26, 0.06, 0.74, 0.90, sill)
        pane(c, 0.30, 0.06, 0.70, 0.86, frame, variant, (1, 3))
        c.paint(c.box(0.22, 0.05, 0.78, 0.34) & (c.s * 18 % 1 < 0.35), DARK)
        c.rect(0.20, 0.33, 0.80, 0.36, DARK)
    elif style == "shutters":
        pane(c, 0.32, 0.24, 0.68, 0.82, frame, variant, (1, 2))
        shutter = (c.box(0.13, 0.24, 0.31, 0.82)) | c.box(0.69, 0.24, 0.87, 0.82)
        c.paint(shutter, (0.42, 0.52, 0.50), tint=0.45)
        c.shade(shutter & (c.t * 20 % 1 < 0.35), 0.80)
        c.rect(0.30, 0.20, 0.70, 0.24, sill)
    elif style == "ribbon":
        pane(c, 0.0, 0.34, 1.0, 0.80, (0.30, 0.31, 0.33), variant, (3, 0), width=0.03)
    elif style == "twin":
        for s in (0.14, 0.54):
            c.rect(s - 0.03, 0.20, s + 0.35, 0.25, sill)
            pane(c, s, 0.25, s + 0.32, 0.82, frame, variant, (0, 1))
    else:  # small
        c.rect(0.28, 0.72, 0.72, 0.80, sill)
        pane(c, 0.32, 0.36, 0.68, 0.73, frame, variant, (1, 0))
        c.rect(0.30, 0.31, 0.70, 0.36, sill)
    return c


def door(wall: Canvas, index: int) -> Canvas:
    """A bay of a wall with a door."""
    c = wall.copy()
    c.rect(0.20, 0.0, 0.80, 0.82, (0.74, 0.72, 0.68))
    c.rect(0.26, 0.0, 0.74, 0.76, ((0.28, 0.18, 0.12), (0.14, 0.22, 0.20), DARK, GLASS)[index])
    if index < 2:
        for s in (0.30, 0.53):
            for t in (0.08, 0.36):
                c.shade(c.box(s, t, s + 0.17, t + 0.22), 0.70)
        c.rect(0.26, 0.63, 0.74, 0.76, GLASS, glow=1.0)
    elif index == 2:  # a gateway to the courtyard
        c.paint(c.box(0.12, 0.0, 0.88, 0.86), (0.70, 0.68, 0.64))
        c.paint(c.box(0.18, 0.0, 0.82, 0.80), (0.30, 0.24, 0.20))
        c.shade(c.box(0.18, 0.0, 0.82, 0.80) & (c.s * 14 % 1 < 0.2), 0.6)
    else:
        pane(c, 0.26, 0.0, 0.74, 0.76, (0.30, 0.31, 0.33), 0, (1, 0))
    c.rect(0.66, 0.36, 0.69, 0.42, (0.80, 0.70, 0.40))
    c.rect(0.16, 0.0, 0.84, 0.05, (0.62, 0.60, 0.57))
    return c
