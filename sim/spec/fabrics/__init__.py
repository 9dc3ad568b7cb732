"""Fabric families, one file each."""
