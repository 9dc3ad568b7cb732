"""Measured kernels: constants of a GPU fitted to them, and how far the cost model is from them."""
