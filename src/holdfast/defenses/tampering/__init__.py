"""Training against simulated attackers: their runs inside an outer step, their attacks, and the losses against them."""
