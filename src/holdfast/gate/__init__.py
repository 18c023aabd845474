"""Whether runs show what a release asks for: `holdfast gate`.

`gate_file` reads the gate file and `origin` its dates, `evidence` groups the records of runs by defense and attack. The
modules `attacked`, `unattacked`, `customers` and `breadth` have a family of measures each, as pure functions from
records to findings; `runs` says what an attack's runs lack. `bounds` turns a finding into pass, fail or inconclusive,
`deciding` puts lines and defenses together, `answer` writes the verdicts as JSON values. `explaining` proposes the
missing runs.
"""
