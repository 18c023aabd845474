"""Defenses: `online` ones constrain somebody's training, `offline` ones harden weights before release."""
