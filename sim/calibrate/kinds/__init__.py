"""Kinds of measured kernels, one file each: how its files are read, predicted and fitted."""
