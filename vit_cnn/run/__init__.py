"""What a run leaves behind, how it is read back, and what a person sees of it while it trains."""
