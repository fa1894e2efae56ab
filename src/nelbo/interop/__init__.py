"""Models to and from other people's tools."""
