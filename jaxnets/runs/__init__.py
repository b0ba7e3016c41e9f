"""A run from its experiment to its report: the parts built, trained in a run directory, opened again."""
