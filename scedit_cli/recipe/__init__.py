"""Recipes: TOML files that describe a training run. All unknown keys and bad values are reported at once.

>>> recipe = load_recipe("canny.toml", {"train.steps": 200})
>>> recipe.train.steps
200
"""

from scedit_cli.recipe.builtin import builtin_recipes
from scedit_cli.recipe.loading import load_recipe, settings_of_made, without_folder, without_folders
from scedit_cli.recipe.schema import (
    BaseSection,
    CheckpointsSection,
    DataSection,
    Recipe,
    SamplesSection,
    ScoreSection,
    TrackingSection,
    TrainSection,
    TunerSection,
    ValidationSection,
)

__all__ = [
    "BaseSection",
    "CheckpointsSection",
    "DataSection",
    "Recipe",
    "SamplesSection",
    "ScoreSection",
    "TrackingSection",
    "TrainSection",
    "TunerSection",
    "ValidationSection",
    "builtin_recipes",
    "load_recipe",
    "settings_of_made",
    "without_folder",
    "without_folders",
]
