"""How long a kernel or a collective takes alone."""
