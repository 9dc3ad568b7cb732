"""When it happens: the only users of SimPy."""
