"""Weights from elsewhere: one string to one verified file, and what stands in it under our names."""
