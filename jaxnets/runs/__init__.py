"""A run from its experiment to its report: building the parts, training in a run directory, opening the run again."""
