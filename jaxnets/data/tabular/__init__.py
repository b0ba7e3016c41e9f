"""Tables of columns: CSV files and data frames read, their columns classified and encoded."""
