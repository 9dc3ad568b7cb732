"""Before the run: six questions, answered in order, each with its numbers, formulas, sources and sensitivity."""
