"""Recipes: what to quantize, how, and how close the result must stay."""
