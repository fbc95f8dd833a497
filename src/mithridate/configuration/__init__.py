"""The options of an audit: their grammar, and their defaults for each data set."""
