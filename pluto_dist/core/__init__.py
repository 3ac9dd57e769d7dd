"""RING 0 decides: `values` is what is said and kept, `rules` are pure functions, `machine` has the parts."""
