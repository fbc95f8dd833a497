"""Whether the hypergradients are right."""
