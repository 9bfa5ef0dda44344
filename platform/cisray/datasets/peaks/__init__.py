"""Make labels of peaks, place windows on them, and choose windows without one."""
