"""Frozen encoders, scores, colours, contact sheets and peak memory."""
