"""Observe, plan, apply, journal: makes the world as the descriptor wants it."""
