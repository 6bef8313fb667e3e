"""The two parties of the protocol, step by step, with their states and checks; and a round that both play in memory."""
