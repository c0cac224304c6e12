"""Numbers of warps and tiles for the kernels of `gpu.py`: which are the quickest on this device."""


def run(session):
    """Record that there is nothing to choose yet."""
    session.record(tune="needs a CUDA device")
