"""Accelerators that need not be there: what a program takes and needs on them, by their own compilers and by arithmetic."""
