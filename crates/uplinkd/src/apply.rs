//! Carries out operations on the kernel's tables and reports what it said.
