"""The way in and out: other libraries' weights and files."""
