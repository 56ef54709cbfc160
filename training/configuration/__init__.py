"""What was asked for: the command line and the config, checked."""
