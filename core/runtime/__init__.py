"""How a model is run: batching, caching, capture, modified backward passes."""
