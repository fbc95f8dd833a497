"""The audit: splits × policies × ratios."""
