"""What can be asked for: options, their defaults by data set, their grammar."""
