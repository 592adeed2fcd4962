"""Data in, figure out. One theme; every figure is drawn from a table or from arrays alone."""

from dinomix.figures.charts import (
    class_gains,
    freezing_costs,
    recall_bars,
    recall_curves,
    recall_dots,
    recall_heatmap,
    test_map,
    training_curves,
)
from dinomix.figures.pictures import (
    attention_rows,
    class_colours,
    class_legend,
    comparison_rows,
    image_grid,
    retrieval_rows,
    token_colours,
)
from dinomix.figures.theme import CLASS_COLOURS, NEAR, RIGHT, WRONG, save_figure

__all__ = [
    "CLASS_COLOURS",
    "NEAR",
    "RIGHT",
    "WRONG",
    "attention_rows",
    "class_colours",
    "class_gains",
    "class_legend",
    "comparison_rows",
    "freezing_costs",
    "image_grid",
    "recall_bars",
    "recall_curves",
    "recall_dots",
    "recall_heatmap",
    "retrieval_rows",
    "save_figure",
    "test_map",
    "token_colours",
    "training_curves",
]
