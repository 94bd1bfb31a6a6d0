"""The library on the Checkpoints tab: a prefix's card, and prefixes from elsewhere. Components and handlers."""
