"""The atlas: how tiles are looked up, and that they are there."""

import numpy as np

from toycity.texture import TILE, Atlas
from toycity.tiles import atlas


def test_atlas_look_up_blends_the_four_nearest_texels():
    rng = np.random.default_rng(0)
    tiles = {str(i): rng.integers(0, 256, (TILE, TILE, 5), np.uint8) for i in range(2)}
    small = Atlas(tiles)
    s, t = rng.random(50).astype(np.float32), rng.random(50).astype(np.float32)
    tile = rng.integers(0, 2, 50).astype(np.int32)
    for level in (0, 2):
        side = TILE >> level
        got = small.look_up(tile, s, t, np.full(50, 2.0**level, np.float32))
        for n in range(50):
            full = tiles[str(tile[n])].astype(float)
            means = full.reshape(side, 2**level, side, 2**level, 5).mean(axis=(1, 3))
            x, y = (np.clip(v * side - 0.5, 0, side - 1) for v in (float(s[n]), float(t[n])))
            i, j = int(x), int(y)
            i1, j1 = min(i + 1, side - 1), min(j + 1, side - 1)
            low = means[j, i] * (1 - x % 1) + means[j, i1] * (x % 1)
            high = means[j1, i] * (1 - x % 1) + means[j1, i1] * (x % 1)
            expected = (low * (1 - y % 1) + high * (y % 1)) / 255
            np.testing.assert_allclose(got[:, n], expected, atol=0.5 / 255 + 1e-4)


def test_every_tile_is_painted_within_range():
    tiles = atlas().index
    assert len(tiles) == len(set(tiles.values()))
    assert {"asphalt", "sign/0", "window/brick/casement/2"} <= set(tiles)
