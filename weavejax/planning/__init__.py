"""Plans for chips that are not there: topologies, compiled programs read, estimates."""
