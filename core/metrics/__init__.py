"""Metrics of attributions, one file per kind of question; each metric registers itself."""
