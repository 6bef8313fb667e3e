"""Lanes: clients side by side on one device, and what each of them does next.

    schedule.py        which clients a device trains, the largest first
    traced_client.py   a client's function before anyone trains: its shapes
    client_program.py  a client's traced program, taken apart at its loop: begin, step, end
    client_loop.py equations.py   the loop itself, and what equations of programs rest on
    cohort_inputs.py   what a lane reads of a cohort, and where its results go
    waves.py           lanes that begin together      queues.py   lanes that begin their next client as they are done

What comes in: how clients share a device's time. What a client computes is not known here.
"""
