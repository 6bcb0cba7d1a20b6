"""Found by every Python process of a program under test, before its own code runs."""

import crash_points

crash_points.hook()
