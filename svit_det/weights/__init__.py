"""Other people's names for the same weights, as tables."""
