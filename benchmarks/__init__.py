"""Time and memory against the reference libraries; see `bench`."""
