"""What networks and data are made of: attention, transformer parts, spectral front ends."""
