"""The train loop: precision, state, step, the compiled program of many steps, the loop, evaluation, checkpoints.

Its modules are imported by name (`from jaxnets.training.loop import fit`), so that a configuration, which needs only
`precision`, does not load the others.
"""
