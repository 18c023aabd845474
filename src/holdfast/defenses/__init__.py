"""Defenses: `online` ones constrain a customer's training, `offline` ones harden weights before release."""
