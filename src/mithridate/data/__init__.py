"""Data sets: read or refused, encoded, split; what a row may hold."""
