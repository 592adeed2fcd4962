"""From light to a photograph: glare, motion blur, flakes, tone, sensor noise."""

import numpy as np
from PIL import Image, ImageFilter

from toycity.conditions import Condition


def develop(light: np.ndarray, condition: Condition, rng: np.random.Generator) -> np.ndarray:
    """Turn linear light (H, W, 3) float32 into an image (H, W, 3) uint8, as a camera would."""
    width = light.shape[1]
    gain = condition.exposure * rng.uniform(0.90, 1.10)
    balance = rng.uniform(0.96, 1.04, 3)
    light = light * (gain * balance).astype(np.float32)
    if condition.lamps > 0:
        light += 0.30 * condition.lamps * _glare(light)
    if condition.snow > 0:
        _flakes(light, condition.snow, rng)
    if condition.motion > 0:
        length = condition.motion * width * rng.uniform(0.7, 1.3)
        light = _smear(light, length, angle=rng.normal(0, 0.35))
    tone = 1 - np.exp(-1.9 * light)  # bright light saturates softly
    tone = np.sqrt(tone)
    if condition.noise > 0:
        grain = rng.standard_normal(tone.shape, dtype=np.float32)
        grain += 0.6 * rng.standard_normal((*tone.shape[:2], 1), dtype=np.float32)
        tone += condition.noise * np.sqrt(0.15 + tone) * grain * np.float32(0.7)
    return np.rint(np.clip(tone, 0, 1) * 255).astype(np.uint8)


def _glare(light: np.ndarray) -> np.ndarray:
    """What lamps spill over their surroundings: the brightest light, blurred."""
    bright = np.rint(np.clip(light - 0.5, 0, 1) * 255).astype(np.uint8)
    radius = light.shape[1] / 28
    blurred = Image.fromarray(bright).filter(ImageFilter.BoxBlur(radius))
    blurred = blurred.filter(ImageFilter.BoxBlur(radius))
    return np.asarray(blurred, np.float32) / np.float32(60)


def _flakes(light: np.ndarray, snow: float, rng: np.random.Generator) -> None:
    """Falling snow, in place: specks, denser the larger the image."""
    height, width = light.shape[:2]
    count = round(0.004 * snow * height * width)
    rows, columns = rng.integers(0, height, count), rng.integers(0, width, count)
    share = rng.uniform(0.15, 0.6, (count, 1)).astype(np.float32)
    for down in range(max(1, width // 112)):
        at = np.minimum(rows + down, height - 1), columns
        light[at] += (0.85 - light[at]) * share


def _smear(light: np.ndarray, length: float, angle: float) -> np.ndarray:
    """Mean of the image shifted along a line of `length` pixels; its edges go on outside it."""
    taps = max(2, round(length))
    steps = np.linspace(-0.5, 0.5, taps) * length
    across = np.rint(steps * np.cos(angle)).astype(int)
    down = np.rint(steps * np.sin(angle)).astype(int)
    margin = taps + 1
    padded = np.pad(light, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    height, width = light.shape[:2]
    total = np.zeros_like(light)
    for dx, dy in zip(across, down, strict=True):
        total += padded[margin + dy : margin + dy + height, margin + dx : margin + dx + width]
    return total / np.float32(taps)
