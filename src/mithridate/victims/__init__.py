"""What is poisoned: model, loss, penalty and training rule."""
