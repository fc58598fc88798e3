"""Training recipes: the published ones with their sources, a fast one, and a plain one."""

from art_classwise.trainers.recipes.published import fast_recipe, paper_recipe, plain_recipe
from art_classwise.trainers.recipes.recipe import Recipe

__all__ = ["Recipe", "fast_recipe", "paper_recipe", "plain_recipe"]
