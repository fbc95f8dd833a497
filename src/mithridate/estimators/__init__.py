"""Attacks on a scikit-learn estimator, by refits: what it learns is seen only by fitting it again."""
