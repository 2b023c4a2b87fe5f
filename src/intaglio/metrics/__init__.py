"""Metrics, a file each, declared once; frozen encoders; helpers on features and pixels."""
