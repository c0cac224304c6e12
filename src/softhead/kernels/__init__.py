"""Numbers only: two-dimensional arrays in, already checked; results written into ``out``."""
