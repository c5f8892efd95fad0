"""What stands in for removed pixels: baselines, masks, superpixels, imputation."""
