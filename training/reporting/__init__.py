"""What a run tells: lines, curves, films, tables."""
