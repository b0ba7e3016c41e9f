"""Types that pass between rooms, errors, files, streams and type checks. Every room may import it; it imports no room."""
