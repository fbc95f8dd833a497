"""Runs an audit: splits × policies × ratios."""
