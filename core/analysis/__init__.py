"""Analyses of a model other than attribution: feature maps and attention heads."""
