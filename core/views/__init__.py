"""Results in, pictures out: colour, Plotly panels, reports. Nothing here knows a model."""
