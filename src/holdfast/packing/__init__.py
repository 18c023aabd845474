"""Evidence packs: what finished runs show, in one zip file that others can check figure by figure."""
