"""Weights on disk: read as data, written whole, fitted to a network, brought from other names."""
