"""Pages that a person looks at: one HTML file each, plots inside, no server."""
