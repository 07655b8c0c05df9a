"""Policies fine-tuned alike from one dense detector, and the results of each policy."""
