"""Published training runs: from a row to a scenario, and how far simulated steps are from measured ones."""
