"""The training log, console progress, plots and the report page; all of them take plain data."""
