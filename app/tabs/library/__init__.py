"""What the Checkpoints tab has of the library: a prefix's card, and prefixes from elsewhere. Components and handlers."""
