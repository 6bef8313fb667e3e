"""A model for each client, as whole models beside or after the server's."""
