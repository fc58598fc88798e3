"""Recipes, how a network is trained, as one object: plain and fast ones, and those of the papers."""

from art_classwise.trainers.recipes.published import PUBLISHED, paper_recipe, published_recipes
from art_classwise.trainers.recipes.recipe import Recipe, fast_recipe, plain_recipe

__all__ = ["PUBLISHED", "Recipe", "fast_recipe", "paper_recipe", "plain_recipe", "published_recipes"]
