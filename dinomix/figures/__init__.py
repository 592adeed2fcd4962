"""Data in, figure out. One theme; every figure is drawn from a table or from arrays alone."""

from dinomix.figures.charts import class_gains as class_gains
from dinomix.figures.charts import freezing_costs as freezing_costs
from dinomix.figures.charts import precision_recall as precision_recall
from dinomix.figures.charts import recall_bars as recall_bars
from dinomix.figures.charts import recall_curves as recall_curves
from dinomix.figures.charts import recall_dots as recall_dots
from dinomix.figures.charts import recall_heatmap as recall_heatmap
from dinomix.figures.charts import test_map as test_map
from dinomix.figures.charts import training_curves as training_curves
from dinomix.figures.pictures import attention_rows as attention_rows
from dinomix.figures.pictures import class_colours as class_colours
from dinomix.figures.pictures import comparison_rows as comparison_rows
from dinomix.figures.pictures import image_grid as image_grid
from dinomix.figures.pictures import look_alikes as look_alikes
from dinomix.figures.pictures import token_colours as token_colours
from dinomix.figures.theme import CLASS_COLOURS as CLASS_COLOURS
from dinomix.figures.theme import NEAR as NEAR
from dinomix.figures.theme import RIGHT as RIGHT
from dinomix.figures.theme import WRONG as WRONG
from dinomix.figures.theme import display_name as display_name
from dinomix.figures.theme import looks as looks
from dinomix.figures.theme import save_figure as save_figure
