"""`headway shm`: what shared memory there is, what is in it, and how to be rid of it."""
