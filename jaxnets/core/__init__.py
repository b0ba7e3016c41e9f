"""What every room may use: the types that pass between rooms, errors, files, streams, type checks. Imports no room."""
