"""A run, from its options to its report, whatever the field."""
