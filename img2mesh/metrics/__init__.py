"""Scores of pictures and of surfaces."""
