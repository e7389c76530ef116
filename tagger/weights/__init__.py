"""Trained weights: those of the originals, converted, and those to download."""
