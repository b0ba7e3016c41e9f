"""What people look at: the training log, progress on the console, plots and the report page. Plain data in, pictures out."""
