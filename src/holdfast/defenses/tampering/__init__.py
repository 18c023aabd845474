"""Training against attackers that train: their runs inside an outer step, who they are, what is held against them."""
