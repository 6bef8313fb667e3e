"""Lies here so that the rooms below find the devices, servers and small runs that they share, which lie beside it."""
