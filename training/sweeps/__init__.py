"""Many runs: the members of a sweep, one after the other or side by side, and the table of what came of them."""
