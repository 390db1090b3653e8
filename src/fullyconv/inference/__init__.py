"""Prediction and its result."""
