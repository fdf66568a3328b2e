"""The book's own small networks: hosts for the methods of `eenotes`."""
