"""The methods of explanation, one file per family; each registers itself."""
