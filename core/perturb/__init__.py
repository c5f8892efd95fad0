"""Replacing pixels of an image: baselines, masks, superpixels and imputation."""
