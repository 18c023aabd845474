"""Whether runs show what a release asks for: `holdfast gate`.

`settings` reads the gate file, `evidence` groups the records of runs by defense and attack, one module for each family
of measures has pure functions from records to findings, `bounds` turns a finding into pass, fail or inconclusive, and
`deciding` puts lines and defenses together.
"""
