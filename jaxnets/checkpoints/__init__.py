"""States on the disk: written by Orbax, described and checked by our manifest, kept or removed by a rule, used as initial
weights."""
