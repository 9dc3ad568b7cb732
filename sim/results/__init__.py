"""What a timeline means: breakdown, bubble, overlap, use of links."""
