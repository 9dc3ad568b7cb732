"""What exists: model, GPU, topology, layout, training, and the scenario that joins them."""
