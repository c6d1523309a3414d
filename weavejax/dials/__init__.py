"""The three dials, when, what and where: signals, controls, and the controls file."""
