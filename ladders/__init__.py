"""The same idea on other ground: one folder per ladder."""
