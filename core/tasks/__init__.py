"""What a model returns, and what can be asked of it."""
