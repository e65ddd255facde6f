"""Several models side by side: what is measured, and the report that says it."""
