"""Names for the arrays that the comparison works on."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Integers = NDArray[np.int64]
Bools = NDArray[np.bool_]
