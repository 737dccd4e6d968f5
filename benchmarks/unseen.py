"""Readers on a set that none of them was trained or chosen on: accuracy, recall of each class, calibration.

python -m benchmarks.unseen faces.zip --pattern '^(.*?)_?(?:[0-9]+[a-z]?)?[.]jpg$' \
  --adapter "votes=python -m benchmarks.peer_savedmodel served/1 votes"

Faces are turned grey and resized to 48 x 48, and each reader answers in a process of its own, as in peers.py. A class that the
set does not have is a wrong answer; beside it stands what is right where the reader must choose among the set's classes.
Intervals are of persons drawn again.
"""

from __future__ import annotations

import argparse
import shlex

import numpy as np

from emotiw_keras.audit.adapter import Adapter
from emotiw_keras.data.batches import Pool
from emotiw_keras.data.load import load_faces
from emotiw_keras.evaluation.metrics import expected_calibration_error
from emotiw_keras.evaluation.significance import person_numbers, share_interval


def main() -> None:
    """Ask each, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.unseen", description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("faces", help="a set of labelled faces")
    parser.add_argument("--pattern", required=True, help="regular expression on file names for the person")
    parser.add_argument("--adapter", action="append", required=True, metavar="NAME=COMMAND", help="a reader; repeatable")
    asked = parser.parse_args()
    faces = load_faces(asked.faces, size=48, grey=True, subject_pattern=asked.pattern)
    chosen = np.flatnonzero(faces.label >= 0)
    pixels = Pool([(faces, chosen)], 48, True).gather(np.arange(len(chosen)))
    truth, persons = faces.label[chosen], person_numbers([faces.subject[i] for i in chosen])
    print(f"{len(chosen):,} faces of {len(set(persons)):,} persons\n")
    print("| reader | accuracy | 95 % by person | among the set's classes | ECE | " + " | ".join(faces.labels) + " |")
    print("|---|--:|--:|--:|--:|" + "--:|" * len(faces.labels))
    for word in asked.adapter:
        name, _, command = word.partition("=")
        reader = Adapter(shlex.split(command), called=name)
        answers = reader.predict(pixels[..., 0])
        reader.end()
        if lacking := set(faces.labels) - set(reader.labels):
            parser.error(f"{name} cannot say {', '.join(sorted(lacking))}, which {asked.faces} has")
        order = np.array([faces.labels.index(label) if label in faces.labels else -1 for label in reader.labels])
        right = order[answers.argmax(axis=1)] == truth
        low, high = share_interval(right, persons)
        known = np.flatnonzero(order >= 0)
        among = order[known[answers[:, known].argmax(axis=1)]] == truth
        places = np.array([np.flatnonzero(order == label)[0] for label in range(len(faces.labels))])
        error = expected_calibration_error(places[truth], answers)
        recall = " | ".join(f"{right[truth == label].mean():.1%}" for label in range(len(faces.labels)))
        print(f"| {name} | {right.mean():.1%} | {low:.1%} - {high:.1%} | {among.mean():.1%} | {error:.3f} | {recall} |")


if __name__ == "__main__":
    main()
