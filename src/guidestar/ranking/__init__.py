"""What losses over pairs of scores share: checked batches, means over the pairs of an anchor, and their fast paths."""
