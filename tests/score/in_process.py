"""Scores users in the test process, with the real tower and index: a worker's process imports TensorFlow first."""

import pyarrow as pa

from twotower_tf.score.score_plan import Planner
from twotower_tf.score.scorer import Scorer


def scored(options, rows=4096):
    """The output of a scoring in this process, and what its notes would hold."""
    planner = Planner(options)
    with planner.journal.lock():
        job, units = planner.make_plan()
        scorer = Scorer(job, planner.bundle)
        tables, stats, entries = [], scorer.stats(), []
        for unit in units:
            bad = []
            with job.open(job.sources[unit.file], unit, rows) as opened:
                tables += [scorer.layout.plain(table) for table in scorer.tables(opened, stats, bad)]
                entries += opened.entries(bad)
        planner.journal.remove_work_files()
    return pa.concat_tables(tables), stats, entries
