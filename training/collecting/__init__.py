"""Experience: from environments, and from recordings."""
