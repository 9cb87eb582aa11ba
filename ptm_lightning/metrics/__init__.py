"""Metrics over a whole evaluation, as their field defines them."""
