//! A list that one thread writes and others wait on.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use uplink_core::time::Instant;

use crate::clock::now;
use crate::error::{Error, Result};

/// Something that happened at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamped<T> {
    /// When it was seen.
    pub at: Instant,
    /// What.
    pub what: T,
}

/// What happened, oldest first.
#[derive(Debug)]
pub(crate) struct Record<T> {
    list: Mutex<Vec<Stamped<T>>>,
    grown: Condvar,
}

impl<T: Clone> Record<T> {
    pub(crate) fn new() -> Self {
        Self { list: Mutex::new(Vec::new()), grown: Condvar::new() }
    }

    /// Appends, stamped now.
    pub(crate) fn push(&self, what: T) {
        let mut list = self.lock();
        list.push(Stamped { at: now(), what });
        self.grown.notify_all();
    }

    pub(crate) fn all(&self) -> Vec<Stamped<T>> {
        self.lock().clone()
    }

    /// The first at or after `since` that is asked for; waits for it at most so long.
    pub(crate) fn wait_for(
        &self,
        what: &str,
        since: Instant,
        bound: Duration,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Result<Stamped<T>> {
        let end = now() + bound;
        let mut list = self.lock();
        let mut seen = list.partition_point(|entry| entry.at < since);
        loop {
            let fresh = list.get(seen..).unwrap_or_default();
            if let Some(found) = fresh.iter().find(|entry| is_it(&entry.what)) {
                return Ok(found.clone());
            }
            seen = list.len();
            let left = end.since(now());
            if left.is_zero() {
                return Err(Error::Late { what: what.to_owned(), bound });
            }
            let waited = self.grown.wait_timeout(list, left);
            list = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Stamped<T>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
