//! What the host offers: cores, limits and kernel settings, checked.
