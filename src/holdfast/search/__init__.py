"""An attacker who tunes the attack, at a stated budget, and is reported on prompts, judge and seeds not seen before."""
