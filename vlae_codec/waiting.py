"""How threads wait for each other, set by importing this before torch and numba load their OpenMP.

A compiled loop and a convolution end in barriers, some thousands a second. GNU OpenMP's threads spin there for
milliseconds, which costs nothing on an idle machine; beside another busy process they burn the time that the thread
they wait for needs. So they spin for a little longer than it takes to wake a thread, then sleep. The bytes are the
same. Spinning less makes coding slower on an idle machine: a quarter with no spinning at all, a sixth with this much.

What the user has set stays. Where torch was imported first, its threads wait as it has told them.
"""

from __future__ import annotations

import os

#: Turns of GNU OpenMP's waiting loop, some 150 microseconds; other OpenMP libraries know the second variable.
_WANTED = {"GOMP_SPINCOUNT": "3000", "OMP_WAIT_POLICY": "PASSIVE"}

if not any(name in os.environ for name in _WANTED):
    os.environ.update(_WANTED)
