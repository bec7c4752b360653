"""Datasets -> conversations -> token ids and labels. Preview, training and evaluation use the same functions."""
