"""Studies of this library's own: audits, leaks, and personal models compared."""
