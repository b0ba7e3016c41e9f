"""Texts: files read, cut into tokens, by a vocabulary of the data or by a tokenizer's file."""
