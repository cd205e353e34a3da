"""Many runs as one experiment, on Ray Tune: what is tried, how, and what came out."""
