"""What each rank does: schedules, layers, lowering, folding, memory."""
