"""How loops that only other loops call are compiled.

As `numba.njit` compiles them they would be compiled for each number that is named in a call, and with what lets Python
and C call them, which takes longer than a small loop itself. What such a loop is called with is to be of one type and
layout: an index of a parallel loop is uint64, all other integers are int64, and arrays that are made of bytes are
read-only ones until they are copied. Where Python calls it, plain Python runs.
"""

from __future__ import annotations

from numba.extending import register_jitable

inner = register_jitable(cache=True, no_cfunc_wrapper=True)
