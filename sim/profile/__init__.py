"""Measures kernels, launches and copies on a real GPU, in the columns that the calibration reads."""
