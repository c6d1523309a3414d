"""What every run needs, whatever the system: mesh, sharding, optimiser, step, checkpoints, logs."""
