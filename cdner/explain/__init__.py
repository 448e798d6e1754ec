"""One sentence through the whole method, step by step."""
