"""The book's own code: one folder per chapter, and what the chapters share."""
