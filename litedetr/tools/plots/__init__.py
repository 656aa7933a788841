"""Pictures of what a detector reads, of how runs went and of what they score. docs/visualize.md shows them."""
