"""Language models as judges: what they are asked, how they are reached, and what they said."""
