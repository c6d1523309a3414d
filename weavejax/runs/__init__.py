"""What the doors share: from a config to data, a session, results, sweeps and their comparison."""
