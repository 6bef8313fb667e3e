"""A model in parts: leaves that cross the wire, and leaves that stay at the client or stay as they are."""
