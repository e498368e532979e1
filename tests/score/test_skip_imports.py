"""What a worker does without is not imported, and nobody misses it."""

import subprocess
import sys


def test_arrow_goes_on_without_pandas_and_nobody_imports_keras():
    code = """
import sys
from twotower_tf.score import unneeded
unneeded.refuse()
import pyarrow as pa
print(pa.array(["a", None]).to_pylist(), pa.array([1.5]).to_numpy())
for name in ("pandas", "keras", "keras.src.optimizers"):
    try:
        __import__(name)
    except ImportError as error:
        print(error)
print([name for name in ("pandas", "keras") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "['a', None] [1.5]",
        "No module named 'pandas' in a worker",
        "No module named 'keras' in a worker",
        "No module named 'keras' in a worker",
        "[]",
    ]
