"""Rehearsal: what a run will cost, before it starts, here or on an accelerator that is not here.

    plan.py        `fl.plan`: traffic, work and memory by arithmetic; time by a short probe, or a rehearsal
    rehearse.py    a round compiled for a target: whether it fits, and what bounds it
    targets.py chips.py   GPUs and slices of TPUs by name, with the facts of their data sheets
    absent.py      devices of a target that is not at hand, and what the environment lacks for it
    programs.py    the shapes that a round is compiled for, and the compiler's own word on memory
    hlo.py loops.py traffic.py   the compiled program's text: loops with their kernels, sums over devices, bytes
    flops.py       products of a traced program
    steps.py       steps one after another that the schedule takes
    roofline.py    the least time that a round can take, and what binds it

What comes in: what can be known of a run without running it.
"""
