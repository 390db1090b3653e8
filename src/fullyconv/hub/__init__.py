"""The zoo: what there is, and loading it."""
