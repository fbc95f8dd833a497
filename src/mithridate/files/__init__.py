"""Reading files that may be harmful, and writing files that are never half there."""
