"""Looking into a model beyond which pixels count."""
