"""Text files, vocabularies and tokenizers."""
