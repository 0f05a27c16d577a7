//! First start, later starts, refusals.
