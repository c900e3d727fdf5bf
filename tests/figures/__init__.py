"""Every figure draws, holds what it claims, and refuses what does not hold."""
