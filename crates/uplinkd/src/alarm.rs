//! The one timer: rings when the core wants to be called again.
