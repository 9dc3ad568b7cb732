"""What is shown: tables, figures, the page, traces. Nothing is computed here that is not a difference or a sum."""
