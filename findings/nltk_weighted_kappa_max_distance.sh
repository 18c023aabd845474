#!/usr/bin/env bash
# nltk's weighted kappa multiplies the disagreement by `max_distance`, so that the agreement of two raters on a scale of
# five comes out below chance.
#
# Versions: nltk 3.10.4, scikit-learn 1.9.1, Python 3.11.
# Expected: the coefficient is one minus observed over expected disagreement. `max_distance`, the largest distance that
#   occurs, brings both to between 0 and 1 and cancels out: weighted_kappa() is the same for every `max_distance`, and is
#   what scikit-learn computes with weights="linear" where the distance is the difference of two ratings.
# Seen: without the argument the two libraries agree. With it, nltk divides the expected disagreement alone
#   (weighted_kappa_pairwise does not hand it on to Do_Kw_pairwise), without a warning:
#     scikit-learn           0.6753
#     nltk, max_distance 1   0.6753
#     nltk, max_distance 2   0.3506
#     nltk, max_distance 4  -0.2987
#   Looked for in public issues and pull requests of nltk (weighted_kappa, max_distance): not found.
#   Exits 1 if the behaviour changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet nltk==3.10.4 scikit-learn==1.9.1 numpy==2.4.6 scipy==1.17.1
cat > "$work/check.py" <<'PY'
import sys

from nltk.metrics.agreement import AnnotationTask
from sklearn.metrics import cohen_kappa_score

first = [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
second = [1, 2, 3, 5, 5, 2, 2, 4, 4, 3]
ratings = [(rater, item, value) for rater, row in (("a", first), ("b", second)) for item, value in enumerate(row)]
task = AnnotationTask(ratings, distance=lambda one, other: abs(one - other))
found = {"scikit-learn": cohen_kappa_score(first, second, weights="linear")}
found |= {f"nltk, max_distance {most}": task.weighted_kappa(max_distance=most) for most in (1, 2, 4)}
for name, value in found.items():
    print(f"{name:<21} {value:7.4f}")
sys.exit([round(float(value), 4) for value in found.values()] != [0.6753, 0.6753, 0.3506, -0.2987])
PY
"$work/venv/bin/python" "$work/check.py"
