"""The book's data: one `load` per kind, embedded or real."""
