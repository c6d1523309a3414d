"""From noise to latents: schedules, samplers, guidance, long clips, local re-synthesis."""
