"""Evaluation of scores: metrics, confidence intervals, robustness, comparisons."""
