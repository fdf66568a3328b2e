"""What the methods are compared with."""
