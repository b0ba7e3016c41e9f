"""Tables: CSV files and data frames, and the classification and encoding of their columns."""
