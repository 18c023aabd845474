"""Published tables compared with runs: `holdfast compare`.

`tables` reads the figures that ship with the package, `agreement` has the statistics (pure functions of numbers),
`joining` finds the cells of runs that belong to a published row, `comparing` sets both beside each other, and `drawing`
and `page` show it.
"""
