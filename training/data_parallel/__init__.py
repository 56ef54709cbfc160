"""One run on several GPUs: torchrun starts the processes, rank 0 trains, the others compute its updates with it."""
