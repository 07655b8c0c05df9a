"""Policies fine-tuned alike from one dense detector, and what came of each."""
