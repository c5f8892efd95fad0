"""Drawing of results: colours, images and Plotly panels. This package does not use models."""
