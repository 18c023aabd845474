"""Train judges: Bradley-Terry reward models and question-and-answer harm classifiers, with the common loop."""
