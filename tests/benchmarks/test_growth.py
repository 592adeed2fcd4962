"""The benchmark of growth: its counting and fitting, and each job once, small."""

import sys
from pathlib import Path

import numpy as np
import pytest

from dinomix.model import ModelConfig, build_model

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import growth
from growth import Point, Rates, Series

RATES = Rates(flops=100, memory_bytes=10, file_bytes=1)


@pytest.mark.parametrize("exponent", [0, 0.5, 1, 2])
def test_slope_is_the_exponent(exponent):
    sizes = [10, 30, 100, 500]
    assert growth.slope(sizes, [3 * size**exponent for size in sizes]) == pytest.approx(exponent)


def test_the_limit_is_what_takes_longest():
    assert RATES.limit(Point(9, 0, flops=500, memory_bytes=20)) == ("arithmetic", 5)
    assert RATES.limit(Point(9, 0, flops=100, memory_bytes=20)) == ("bytes (memory)", 2)
    assert RATES.limit(Point(9, 0, 100, 20, file_bytes=3)) == ("bytes (file)", 3)


def made_series():
    """A job whose time is 2 n and whose memory is the square of n, at half of its limit."""
    squares = Series("job", "images", {n: {} for n in (1, 2, 4)})
    flat = Series("other", "queries", {n: {} for n in (10, 100)})
    flops = {10: 1, 100: 200}
    return {
        squares: [Point(2.0 * n, n**2 * 2**20, flops=100 * n, memory_bytes=1) for n in (1, 2, 4)],
        flat: [Point(4.0, 0, flops[n], memory_bytes=1, file_bytes=1) for n in (10, 100)],
    }


def test_tables_tell_slope_limit_and_share():
    points = growth.points_table(made_series(), RATES)
    assert points["MiB"].tolist() == [1, 4, 16, 1, 1]  # what is less than one is chance
    first, second = growth.growth_table(points).to_dict("records")
    assert (first["slope of time"], first["slope of memory"]) == pytest.approx((1, 2))
    assert (first["from - to"], first["limit"]) == ("1 - 4", "arithmetic")
    assert first["of the limit, %"] == pytest.approx(50)
    assert second["slope of time"] == 0
    assert second["limit"] == "bytes (file), then arithmetic"
    assert second["of the limit, %"] == pytest.approx(50)
    told = growth.in_words(growth.growth_table(points), RATES)
    assert "Time grows not at all: other with queries; linearly: job with images." in told
    assert "Memory grows not at all: other with queries; faster: job with images." in told


def test_picture_has_a_column_for_each_job():
    axes = growth.draw(growth.points_table(made_series(), RATES)).axes
    assert [axis.get_title() for axis in axes] == ["job", "other", "", ""]
    assert "images, 1 to 4" in axes[0].get_legend_handles_labels()[1]
    drawn = [line.get_ydata().tolist() for line in axes[0].lines]
    assert [2, 4, 8] in drawn and [1, 2, 4] in drawn and [2, 8] in drawn  # time, limit, guide


def test_counting_agrees_with_counting_by_hand():
    config = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    s, blocks = build_model(config).backbone.out_channels, 12
    patches, tokens = 4, 5
    embedding = patches * (3 * 14 * 14) * s
    block = tokens * (3 * s * s + s * s + 2 * 4 * s * s) + 2 * tokens**2 * s
    mixer = 2 * 2 * s * patches**2  # two of two layers
    head = s * patches * 2 + 2 * s * 8  # rows first
    counted = growth.flops(config, 3, lambda model, batch: model(batch))
    assert counted == 3 * 2 * (embedding + blocks * block + mixer + head)


def test_written_rows_are_descriptors(tmp_path):
    growth.write_unit_rows(tmp_path / "rows.npy", 70, 16, block=30)
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert (rows.shape, rows.dtype) == ((70, 16), np.float32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)
    assert len(np.unique(rows[:, 0])) == 70


def test_each_job_measures_itself(tmp_path):
    rates = growth.measure_rates(tmp_path, size=2**20, repeats=1)
    assert min(rates.flops, rates.memory_bytes, rates.file_bytes) > 1e6

    found = growth.searching(str(tmp_path), images=600, dim=16, queries=4)
    assert (found.flops, found.file_bytes) == (2 * 4 * 600 * 16, 4 * 600 * 16)
    growth.write_pictures(tmp_path, 2)
    described = growth.describing(str(tmp_path), images=3, side=28)
    sizes = [(tmp_path / f"0000{i}.jpg").stat().st_size for i in range(2)]
    assert described.file_bytes == 2 * sizes[0] + sizes[1]
    step = growth.train_step(images=8, side=28, channels=8)
    assert step.memory > 0 and step.memory_bytes > 4 * 20e6  # a ViT-S has 22 million weights
    # Of twelve blocks three go backward, which takes twice their forward pass.
    per_image = described.flops / 3
    assert 1.3 < step.flops / 8 / per_image < 1.7
    assert min(found.seconds, described.seconds, step.seconds) > 0
    assert min(found.memory, described.memory) >= 0


def test_series_name_jobs_and_their_arguments():
    for series in growth.SERIES:
        names = growth.JOBS[series.job].__code__.co_varnames
        assert list(series.settings) == sorted(series.settings)
        assert all(set(setting) <= set(names) for setting in series.settings.values())
