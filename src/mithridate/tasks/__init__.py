"""What a victim is trained to do: which labels there are, what it predicts, and how that is scored."""
