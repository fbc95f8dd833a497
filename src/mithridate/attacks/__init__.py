"""Ways to make poison."""
