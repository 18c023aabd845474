"""Training judges: Bradley-Terry reward models and question-and-answer harm classifiers, by the one loop."""
