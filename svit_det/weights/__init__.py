"""Weights on disk: reading them as data, writing, fitting to a network, renaming foreign ones."""
