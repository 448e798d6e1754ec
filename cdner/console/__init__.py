"""What all commands share: options, output formats, progress, and command groups."""
