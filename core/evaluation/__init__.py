"""Whether attributions deserve trust: controls, verdicts, recommendations, statistics."""
