"""A config file of the digits on four clients, and the table by which a server needs no data of theirs."""

CONFIG = """[arguments]
dataset = "digits"
clients = 4
model = "logistic"
cohort = 2
rounds = 3
epochs = 1
"""
CAPACITY = 360
TABLE = f"""[serve.data]
clients = 4
capacity = {CAPACITY}
classes = 10
[serve.data.features]
x = "float32[8, 8, 1]"
y = "int32"
"""
