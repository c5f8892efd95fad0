"""Questions asked of an explanation, one file each; each registers itself."""
