"""Files that may do harm, and files that must be whole."""
