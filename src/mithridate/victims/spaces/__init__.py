"""The coordinates in which a victim is trained."""
