"""What a victim is trained to do: its labels, its predictions, and how these are scored."""
