"""Measuring, whatever is measured: no model, no ladder, and no metric by name."""
