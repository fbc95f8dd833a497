"""Checks whether the hypergradients are right."""
