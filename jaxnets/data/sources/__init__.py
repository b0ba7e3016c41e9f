"""The named data sets and the files that a configuration can name: each a `Source` that opens a `Dataset`."""
