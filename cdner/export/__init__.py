"""``cdner export``: predictions for other tools."""
