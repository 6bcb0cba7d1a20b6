"""Scores of generated text, as pure functions of predictions and references."""
